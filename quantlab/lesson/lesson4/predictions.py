"""What the learner predicts in lesson 4 and in lab 4."""

from quantlab.lesson.predictions import Prediction

times_faster = Prediction(
    "lesson4-times-faster",
    "f16 has 16 bits a weight, Q4_0 has 4.5. How many times as many words a second does Q4_0 make, on this machine?",
    "times",
    low=0.05,
    high=20,
)
same_story = Prediction(
    "lesson4-same-story",
    "With `int8` 99 of 100 next words stay the same. Of 10 stories of 40 tokens, how many stay the same throughout?",
    "stories",
    low=0,
    high=10,
)
crossover = Prediction(
    "lab4-crossover",
    "4 bits against 16 on your card or CPU: from how many texts at once is 4 bits no longer faster?",
    "texts at once",
    low=1,
    high=4096,
)
