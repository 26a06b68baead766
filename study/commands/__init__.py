"""What the command line does: run a study, show its status, replay a trial, rehearse."""
