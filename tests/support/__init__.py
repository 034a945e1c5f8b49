"""What the tests share: who is alive, how processes meet, what children run, and hosts that can be made to die."""
