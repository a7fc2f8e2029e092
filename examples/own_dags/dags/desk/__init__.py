"""What the workflows of this directory share."""
