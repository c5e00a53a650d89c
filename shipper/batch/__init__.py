"""From records to requests, and what an answer means for them. Deciding code: pure."""
