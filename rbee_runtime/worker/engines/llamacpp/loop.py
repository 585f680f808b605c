"""The steps of one engine: take requests in, decode, sample, send what became certain. Owns all state of answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Delta, TokenLogprob, Usage
from rbee_runtime.worker.engines.llamacpp.answers import Answer, Said, Words
from rbee_runtime.worker.engines.llamacpp.arrays import wanted
from rbee_runtime.worker.engines.llamacpp.aside import Aside
from rbee_runtime.worker.engines.llamacpp.batching import Batcher, Entry
from rbee_runtime.worker.engines.llamacpp.forgotten import Forgotten
from rbee_runtime.worker.engines.llamacpp.native import NativeModel, Outcome
from rbee_runtime.worker.engines.llamacpp.pace import Pace
from rbee_runtime.worker.engines.llamacpp.sampling import PATIENCE_SECONDS, THREADS, Sampler, logprobs
from rbee_runtime.worker.engines.llamacpp.slots import Job, Slot, SlotState
from rbee_runtime.worker.engines.llamacpp.wire import Piece, Pieces, Refused, Submit, ToFront


@dataclass(slots=True)
class _Choice:
    index: int
    answer: Answer
    sampler: Sampler


@dataclass(slots=True)
class _Request:
    submit: Submit
    prompt: int
    choices: dict[int, _Choice]
    cached: int = -1
    produced: int = 0

    @property
    def held(self) -> bool:
        """Say whether a grammar may have its tokens come late."""
        return bool(self.submit.sampling.grammar)


class Loop:
    """Called from one thread only; `send` takes a message to the front, `clock` is in seconds."""

    def __init__(
        self,
        model: NativeModel,
        *,
        slots: int,
        context: int,
        batch: int,
        parking: int,
        send: Callable[[ToFront], None],
        clock: Callable[[], float],
    ) -> None:
        self.batcher = Batcher(
            model, slots=slots, batch=batch, shares=model.shares, pooled=model.pooled, parking=parking, clock=clock
        )
        self._model = model
        self._context = context
        self._pace = Pace(batch)
        self._aside = Aside(THREADS)
        self._send = send
        self._clock = clock
        self._requests: dict[int, _Request] = {}
        self._gone = Forgotten()
        self._stepping: set[int] = set()

    def submit(self, submit: Submit, prompt: list[int]) -> None:
        """Queue the choices of a request whose prompt is tokenised, or refuse it."""
        if self._gone.pop(submit.request):
            return
        try:
            self._take(submit, prompt)
        except RequestError as error:
            self._refuse(submit.request, error)

    def refuse(self, submit: Submit, least: int) -> None:
        """Answer that a prompt of at least so many tokens is too long."""
        if not self._gone.pop(submit.request):
            self._refuse(submit.request, too_long(least, self._context))

    def counts(self) -> tuple[int, int, int]:
        """Return slots taken, answers that wait for one, and tokens in cells; from any thread."""
        slots = self.batcher.slots
        return self.batcher.busy, len(self.batcher.waiting), sum(len(slot.held) for slot in slots)

    @property
    def idle(self) -> bool:
        """Say whether nobody waits for an answer."""
        return not self._requests

    @property
    def stuck(self) -> float:
        """Return for how many seconds something has been computed that nobody waits for, and nobody can stop."""
        return max(self._aside.stuck, default=0.0)

    def cancel(self, request: int) -> None:
        """Free all that a request holds; one that is not known yet is forgotten when it comes."""
        if request in self._requests:
            self._drop(request)
        else:
            self._gone.add(request)

    def abandon(self, request: int) -> None:
        """End the running step if it computes for nobody else; from any thread, and `cancel` comes as well.

        A step that has just ended may take the next one with it, which is then computed again.
        """
        self._stepping.discard(request)
        if not self._stepping:
            self._model.abort.set(True)

    def step(self) -> bool:
        """Run one step; False if there was nothing to do."""
        if any(request.held for request in self._requests.values()):
            self._demand_ends()
            self._settle(0.0)
        answering, preparing = self.batcher.load
        limits = (self._pace.room(answering, preparing), self._pace.whole(answering, preparing)) if preparing else (0,)
        entries = self.batcher.plan(*limits)
        if not entries:
            return self._settle(PATIENCE_SECONDS) or self.batcher.save_ahead()
        for part in self._parts(entries) if preparing else [entries]:
            if not self._compute([entry for entry in part if entry.slot.job is not None]):
                break
        return True

    def _parts(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        """Return what is computed together: all of it, or answers before prompts.

        On a processor, where there is no pool, both at once take longer: a row of attention looks through the cells of
        all rows beside it.
        """
        if self._model.pooled:
            return [list(entries)]
        answers = [entry for entry in entries if entry.slot.state is SlotState.DECODE]
        prompts = [entry for entry in entries if entry.slot.state is not SlotState.DECODE]
        return [part for part in (answers, prompts) if part]

    def _compute(self, entries: Sequence[Entry]) -> bool:
        """Compute and send what became certain; False if it could not be done."""
        if not entries:
            return True
        begun = self._clock()
        self._stepping = {entry.slot.job.request for entry in entries if entry.slot.job is not None}
        self._model.abort.set(False)
        outcome = self._model.decode(entries)
        if outcome is not Outcome.DONE:
            self._undo(entries, outcome)
            return False
        self._learn(entries, self._clock() - begun)
        self.batcher.decoded(entries)
        self._ask([(self._choice(entry.slot), output) for entry, output in wanted(entries)])
        self._advance_all([entry.slot for entry in entries if entry.sample], PATIENCE_SECONDS)
        return True

    def _ask(self, places: Sequence[tuple[_Choice, int]]) -> None:
        """Begin to draw the tokens of choices, each from its output of the step: all of its outputs, in their order."""
        plain = any(choice.sampler.plain for choice, _ in places)
        # One call for all of them: each one by itself costs more in Python than in C.
        largest = self._model.largest(len(places)) if plain else repeat(-1, len(places))
        for (choice, output), token in zip(places, largest, strict=True):
            choice.sampler.ask(self._model.context, output, token)

    def _demand_ends(self) -> None:
        """Refuse requests whose grammars are none or have no end, be it that their turn has not come yet."""
        for number, request in [*self._requests.items()]:
            try:
                for choice in request.choices.values():
                    choice.sampler.demand_an_end()
            except RequestError as error:
                self._refuse(number, error)

    def _drop(self, request: int) -> None:
        known = self._requests.pop(request, None)
        self.batcher.cancel(request)
        for choice in known.choices.values() if known is not None else ():
            choice.sampler.close()

    def _take(self, submit: Submit, prompt: list[int]) -> None:
        room = self._context - len(prompt)
        if not all(0 <= token < self._model.vocabulary for token in prompt):
            raise RequestError(400, f"token ids of this model are 0 to {self._model.vocabulary - 1}", param="prompt")
        if any(token >= self._model.vocabulary for token, _ in submit.sampling.logit_bias):
            message = f"logit_bias: token ids of this model are 0 to {self._model.vocabulary - 1}"
            raise RequestError(400, message, param="logit_bias")
        if not prompt:
            raise RequestError(400, "the prompt holds no text", param="messages")
        if room < 1:
            raise too_long(len(prompt), self._context)
        room = room if submit.room is None else min(room, submit.room)
        request = self._requests[submit.request] = _Request(submit, len(prompt), {})
        library, vocab = self._model.library, self._model.vocab
        words = Words(self._model, self._model.special(submit.shown)) if submit.shown else self._model
        for index in range(submit.choices):
            sampler = Sampler(library, vocab, submit.sampling, aside=self._aside, prompt=prompt, choice=index)
            request.choices[index] = _Choice(index, Answer(words, stop=submit.stop, room=room), sampler)
            self.batcher.submit(Job(submit.request, index, prompt))

    def _settle(self, seconds: float) -> bool:
        """Go on where tokens were not there yet, waiting so long for them; False if there is no such place."""
        places = [slot for slot in self.batcher.slots if slot.state is SlotState.CHOOSING]
        self._advance_all(places, seconds)
        return bool(places)

    def _advance_all(self, slots: Sequence[Slot], seconds: float) -> None:
        """Take the tokens of slots, waiting so long for all of them, and send what became certain."""
        last = self._clock() + seconds
        pieces: list[Piece] = []
        for slot in slots:
            # One that was freed by a dead end of its neighbour has no job any more.
            if slot.job is None:
                continue
            request = self._requests[slot.job.request]
            try:
                piece = self._advance(slot, request, request.choices[slot.job.choice], last)
            except RequestError as error:
                self._refuse(slot.job.request, error)
                continue
            if piece is not None:
                pieces.append(piece)
        if pieces:
            self._send(Pieces(pieces))

    def _choice(self, slot: Slot) -> _Choice:
        """Return what a slot works on."""
        if slot.job is None:
            raise AssertionError(f"slot {slot.index} was freed within a step")
        return self._requests[slot.job.request].choices[slot.job.choice]

    def _advance(self, slot: Slot, request: _Request, choice: _Choice, last: float) -> Piece | None:
        """Take the token of one slot, which is waited for until `last`, and return what became certain."""
        if request.cached < 0:
            request.cached = slot.cached
        token = choice.sampler.chosen(max(0.0, last - self._clock()) if request.held else 0.0)
        if token is None:
            self.batcher.choose(slot)
            return None
        answer, submit = choice.answer, request.submit
        said = answer.take(token, None if submit.logprobs is None else self._logprob(submit.logprobs, token, choice))
        if said.finish is not None:
            self.batcher.free(slot)
            return self._ended(request, choice, said)
        self.batcher.answer(slot, token)
        if not said.text and not said.logprobs:
            return None
        delta = Delta(said.text, choice=choice.index, logprobs=said.logprobs, produced=answer.produced)
        return Piece(submit.request, delta)

    def _ended(self, request: _Request, choice: _Choice, said: Said) -> Piece:
        """Return the last piece of a choice; that of the last choice carries the usage of all."""
        number = request.submit.request
        del request.choices[choice.index]
        choice.sampler.close()
        request.produced += choice.answer.produced
        usage = None
        if not request.choices:
            del self._requests[number]
            usage = Usage(request.prompt, request.produced, max(0, request.cached))
        produced = choice.answer.produced
        delta = Delta(said.text, said.finish, usage, choice=choice.index, logprobs=said.logprobs, produced=produced)
        return Piece(number, delta)

    def _logprob(self, top: int, token: int, choice: _Choice) -> TokenLogprob:
        return logprobs(choice.sampler.logits, token=token, top=top, piece_of=self._model.piece_of)

    def _undo(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """Bring slots and cells to what they were before a step that was not computed."""
        for entry in entries:
            self.batcher.forget(entry.slot, entry.start)
            job = entry.slot.job
            if job is not None and entry.slot.state is SlotState.DECODE and len(entry.slot.held) < entry.start:
                # Its cells could only be dropped as a whole: it would go on without what it has said.
                self._refuse(job.request, no_room())
        if outcome is Outcome.NO_ROOM and not self.batcher.drop_caches():
            newest = max((entry.slot for entry in entries), key=lambda slot: slot.used)
            if newest.job is not None:
                self._refuse(newest.job.request, no_room())

    def _refuse(self, request: int, error: RequestError) -> None:
        """Free all that a request holds and have its client told why."""
        self._drop(request)
        self._send(Refused.of(request, error))

    def _learn(self, entries: Sequence[Entry], seconds: float) -> None:
        lengths = [len(entry.tokens) for entry in entries if entry.slot.state is not SlotState.DECODE]
        self._pace.took(seconds, prompts=sum(lengths), answering=len(entries) - len(lengths))


def no_room() -> RequestError:
    """Return the refusal of an answer for which the context has no cells left."""
    message = "the engine's memory for context is full; ask again when other answers have ended"
    return RequestError(503, message, kind="server_error", code="no_context_room")


def too_long(tokens: int, context: int) -> RequestError:
    """Return the refusal of a prompt that leaves no room for an answer."""
    return RequestError(
        400,
        f"the prompt has {tokens} tokens, this model takes {context} for prompt and answer together; "
        "shorten it or give the model a larger context",
        code="context_length_exceeded",
        param="messages",
    )
