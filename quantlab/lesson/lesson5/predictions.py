"""What the learner predicts in lesson 5."""

from quantlab.lesson.predictions import Prediction

together = Prediction(
    "lesson5-together",
    "Eight stories in one batch, against eight one after the other: how many times as many tokens a second, here?",
    "times",
    low=0.1,
    high=50,
)
guessed = Prediction(
    "lesson5-guessed",
    "A model a quarter the size guesses four tokens ahead. Of 100 guesses, how many does the large model keep?",
    "of 100",
    low=0,
    high=100,
)
replicas = Prediction(
    "lab5-replicas",
    "Two copies of the model on this machine, eight readers at once: how many times the tokens a second of one copy?",
    "times",
    low=0.1,
    high=10,
)
