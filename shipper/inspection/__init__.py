"""What spools and segments hold, for people: `lens-ship inspect` and `lens-ship tail`.

Everything here is read-only and safe on spools that are being written and shipped. Rules:

- Text of a spool is untrusted: it is printed through `humanize.sanitize` only.
- Memory is bounded whatever a spool holds: runs, metrics, gaps and damage are kept up to a limit,
  and what exceeds it is counted or announced.
"""
