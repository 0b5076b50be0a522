"""What published protocols compute, question by question, and their traps."""
