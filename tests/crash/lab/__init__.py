"""The crash lab: every promise of the README is attacked, and every attack proves that it can fail.

Rules:

- An attack is one file in `attacks/` and one line in its `REGISTRY`; `attacks/__init__.py` says
  what it promises. A broken build is one entry in `broken.py`; a patch that no longer applies is
  an error.
- A trial runs in a process of its own, from a tree of its own: the repository as it is, or a
  patched copy of it. What is learnt comes back as a `Verdict`.
- Chance comes from the seed alone. What the scheduler adds cannot be seeded: a seed that failed
  fails again soon, not always at its first run.

`python -m tests.crash.lab --help` says how to run it, `docs/development/crash-lab.md` what it
covers.
"""
