"""What the tests are built from: stand-ins that fail on cue, each with tests of its own."""
