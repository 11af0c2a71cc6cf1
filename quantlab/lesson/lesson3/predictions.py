"""The predictions of lesson 3, revealed by what the lesson measures on the learner's own machine."""

from quantlab.lesson.predictions import Prediction

damage_left = Prediction(
    "lesson3-damage-left",
    "Every layer of the story model in 3 bits, groups of 128. Rounding to nearest moves its predictions by so many "
    "nats a token; GPTQ writes a file of the same size, with as many levels. What percentage of the damage is left?",
    "per cent",
    low=0,
    high=300,
)

wrong_text = Prediction(
    "lesson3-wrong-text",
    "GPTQ looks at sample text. Show it 16 files of Python instead of 16 stories, and judge it on stories. How many "
    "times as large does the damage become? (1: no difference.)",
    "times",
    low=0.1,
    high=1000,
)

worst_of_libraries = Prediction(
    "lab3-worst-of-libraries",
    "Several libraries quantize the same model to 4 or 5 bits a weight, on the same texts. How many times as far from "
    "the original (KL divergence) is the farthest of them as the nearest?",
    "times",
    low=1,
    high=100,
)
