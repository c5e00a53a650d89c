"""`lens-ship exec`: a job and its service, without root and without anything set up before.

The process that the caller started waits for the job, its child. The service is a child as well.
One is enough for all jobs of a user on a node: it holds the lock of the state directory.
"""
