"""What anyone may read of a mesh: its state, health, jobs, alerts and deliveries."""
