"""The prediction of lesson 1, revealed by what the lesson measures on the learner's own machine."""

from quantlab.lesson.predictions import Prediction

four_bit_file = Prediction(
    "lesson1-four-bit-file",
    "The layers of the bundled model are stored in 4 bits, groups of 128 with a 16-bit scale. How many bits does each "
    "weight of the whole model take?",
    "bits",
    low=1,
    high=32,
)

nf4_share = Prediction(
    "lab1-nf4-share",
    "The model of this lab in NF4: what percentage of the bytes of the bf16 model will be in memory?",
    "per cent",
    low=0,
    high=100,
)
