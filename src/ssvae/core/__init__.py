"""Types, shapes, seeds, ranks, identity, schedules. Imports nothing of ours; everyone may import it."""
