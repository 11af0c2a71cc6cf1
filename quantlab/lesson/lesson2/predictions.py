"""The prediction of lesson 2, revealed by what the lesson measures on the learner's own machine."""

from quantlab.lesson.predictions import Prediction

same_word = Prediction(
    "lesson2-same-word",
    "Every layer of the story model is rounded to 3 bits: 8 levels in each group of 128 weights. At what percentage "
    "of places in new stories is its most likely next token still the same?",
    "per cent",
    low=0,
    high=100,
)

checkpoint_share = Prediction(
    "lab2-checkpoint-share",
    "You will round every linear layer of this lab's model to 4 bits and write it to a file. What percentage of the "
    "bf16 file's bytes will it take?",
    "per cent",
    low=0,
    high=100,
)
