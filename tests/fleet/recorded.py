"""Another side (the store, the Machines API, the lists, or all in one) that records what it is asked."""


class Recorded:
    """Answers or raises what the test has put into `answers`, the last of them again and again."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []  # verb, and of what it was asked with the words
        self.options = []

    def __getattr__(self, verb):
        def ask(*told, **more):
            self.asked.append((verb, *(word for word in told if isinstance(word, str | None))))
            self.options.append((verb, more))
            answers = self.answers.get(verb) or [None]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return ask

    def of(self, verb):
        """What a verb was asked with, each time."""
        return [told for name, *told in self.asked if name == verb]
