"""The HTTP port of the service: a page, probes, metrics.

- GET and HEAD only; no request changes anything.
- Requests are answered from memory, by threads whose number and time are bounded. A port that is in
  use is logged and tried again while records are delivered.
- The page is one file and loads nothing from elsewhere.
"""
