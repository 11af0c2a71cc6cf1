"""What a lesson is made of: exercises that diagnose, predictions that lock, claims that are checked.

In a notebook, one line a use (`...` is where the learner writes; untouched, it counts as not attempted):

    from quantlab.lesson.lesson1 import exercises, predictions
    from quantlab.widgets import ask, memory_explorer

    ask(predictions.four_bit_file)                # a number box and a Lock button
    predictions.four_bit_file.lock(...)           # the same by code: .lock(4.2)

    memory_explorer()                             # controls and picture; without a kernel, picture and words

    exercises.kv_cache                            # shows the question
    def kv_kib(config): ...                       # its starter: exercises.kv_cache.starter
    exercises.kv_cache.check(kv_kib)              # the learner's function, passed in
    exercises.kv_cache.hint()                     # the next hint; .solution() shows the code

    predictions.four_bit_file.reveal(measured)    # prediction beside measurement

Every call above is the last line of its cell: what it returns shows itself. Exercises and predictions of lesson N are
in `quantlab.lesson.lessonN`; what a learner does is kept by `quantlab.lesson.progress`.
"""
