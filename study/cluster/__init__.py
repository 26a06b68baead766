"""Everything that is Ray: the runtime, its nodes, and the workers that run trials."""
