"""What lies on disk, for people to look at: spools, segments, their records, their curves.

Everything here reads only, and is safe on spools that are being written and shipped: files are
opened as the service opens them, one call long. Rules:

- What a spool holds was written by somebody else: text goes out through `shown` alone.
- Memory is bounded, whatever a spool holds: names and curves are counted or thinned beyond a limit,
  and what was left out is said.

`shown` makes text safe, `tally` counts records; `segment`, `survey` and `checks` look at a spool,
`strangers` at what is none, `show` prints it; `follow` and `line` give records as they come;
`thinning` and `course` give the course of metrics, `terminal` and `picture` draw it.
"""
