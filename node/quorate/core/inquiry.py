"""One explanation as it comes about: the questions that were asked so far, and how each ended.

Owns that questions are asked in order, and that the first failure ends them. What they are is
`quorate.core.explaining`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quorate.core.explanation import (
    Answer,
    Explanation,
    Question,
    Step,
    Thing,
)
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.remedies import Case, remedy


class Inquiry:
    """The steps so far. questions: all that there are, in order; the first failure ends it."""

    def __init__(self, questions: Sequence[Question], case: Case) -> None:
        self._questions = questions
        self.case = case
        self.steps: list[Step] = []
        self.denied: Deny | None = None

    def answer(
        self,
        question: Question,
        failure: Deny | None,
        things: Iterable[Thing] = (),
        note: str = "",
        case: Case | None = None,
    ) -> bool:
        """Adds the next step; whether it was passed."""
        assert question is self._questions[len(self.steps)], "questions are asked in order"
        if failure is None:
            self.steps.append(Step(question, Answer.PASSED, tuple(things), note))
            return True
        self.denied = failure
        advice = remedy(failure, case or self.case)
        self.steps.append(Step(question, Answer.FAILED, tuple(things), note, failure, advice))
        return False

    def broken(self) -> None:
        """The state could not be read where the next question is asked."""
        self.answer(self._questions[len(self.steps)], Deny(Reason.INTERNAL))

    def end(self, depends_on: tuple[str, ...], ledger_time: int) -> Explanation:
        left = (Step(each, Answer.NOT_ASKED) for each in self._questions[len(self.steps) :])
        decision = self.denied or Permit(depends_on)
        return Explanation(decision, (*self.steps, *left), ledger_time)
