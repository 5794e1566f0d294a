"""How pictures are judged: encoders and locators make features and boxes of them, scores make numbers of those."""
