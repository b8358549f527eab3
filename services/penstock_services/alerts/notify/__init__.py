"""What is told of an alert, to whom it is joined, and when it is kept back."""
