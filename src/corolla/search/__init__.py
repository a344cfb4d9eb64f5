"""What is searched for: policies, rewards, and which architecture is deployed."""
