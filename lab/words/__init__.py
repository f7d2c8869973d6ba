"""What a concept from words is worth: on a pretrained text encoder, and with pixels judged in the demo world."""
