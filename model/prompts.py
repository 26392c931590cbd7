"""Prompts: a question and numbered passages become what a generator reads.

One prompt serves two kinds of model: base models read it as one text, chat models as turns. The
passages are packed by sentence within a token budget, best sentences first, because prompt tokens
are what a reader waits for (about 3 ms each on two cores) and a small model is easily distracted.
Knows nothing of backends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ingest.languages import question_language
from model.claims import unmarked
from model.evidence import Sentence, has_chinese

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a generator reads, as plain text for base models and as turns for chat models."""

    instruction: str
    examples: tuple[tuple[str, str], ...]  # (user turn, assistant turn)
    user: str
    cue: str = ""  # the words after which a base model goes on with its answer
    stop: tuple[str, ...] = ()
    is_for_base: bool = False  # an adapter in force is left out

    def as_text(self) -> str:
        """Return the whole prompt as one text for a model without a chat template.

        Worked examples teach a base model better than instructions and citation marks, which
        lowered F1 with a 270M model (docs/log.md); the verifier finds the citations of its drafts.
        """
        turns = [f"{user}\n{self.cue} {unmarked(reply)}" for user, reply in self.examples]
        opening = [] if turns or not self.instruction else [self.instruction]
        return "\n\n".join([*opening, *turns, f"{self.user}\n{self.cue}"])

    def as_messages(self) -> list[dict[str, str]]:
        """Return the prompt as chat messages with "role" and "content"."""
        messages = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for user, reply in self.examples:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": self.user})
        return messages


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What goes into the prompt."""

    examples: int = 3  # worked examples before the question; 0 is zero-shot
    passage_tokens: int = 80  # budget for all passages together, in generator tokens
    chat_instruction: str = ""  # replaces the built-in instruction of that language
    instruct: bool = True  # say what to do; false for an adapter that was trained to do it


# What a trained `answer` adapter reads: its training data and its record name these options.
TRAINED = PromptOptions(examples=0, passage_tokens=220, instruct=False)


@dataclass(frozen=True, slots=True)
class _Wording:
    """The fixed words of a prompt in one language."""

    instruction: str
    question: str
    cue: str
    stop: tuple[str, ...]
    refusal: str  # what a trained adapter says when the passages do not hold the answer
    examples: tuple[tuple[str, str, str], ...]  # (passages, question, reply)


_ENGLISH = _Wording(
    instruction=(
        "Answer the question briefly, in words taken from the numbered passages, and cite the"
        " passage after the answer as [1]. If the passages do not hold the answer, say: The"
        " passages do not say."
    ),
    question="Question:",
    cue="Answer:",
    stop=("\n",),
    refusal="The passages do not say.",
    examples=(
        (
            "[1] Tea from Orra is harvested twice a year. The spring harvest is exported, because"
            " its leaves keep their scent longer.\n[2] The Halden lighthouse was finished in 1897."
            " It was designed by the engineer Marta Lindqvist.",
            "Who designed the Halden lighthouse?",
            "Marta Lindqvist [2]",
        ),
        (
            "[1] The ferry to Brenn leaves at noon and takes 40 minutes. A ticket costs 12 crowns."
            "\n[2] The island of Brenn has a market on Sundays.",
            "How long does the ferry take?",
            "40 minutes [1]",
        ),
        (
            "[1] Tea from Orra is harvested twice a year. The spring harvest is exported, because"
            " its leaves keep their scent longer.",
            "Why is the spring harvest exported?",
            "because its leaves keep their scent longer [1]",
        ),
    ),
)

_CHINESE = _Wording(
    instruction=(
        "根据编号的资料，用资料中的原文词语简短回答问题，并在答案后注明资料编号，如[1]。"
        "资料中没有答案时，回答：资料没有说明。"
    ),
    question="问题：",
    cue="答案：",
    stop=("\n", "。", "？"),
    refusal="资料没有说明。",
    examples=(
        (
            "[1] 奥拉茶每年采收两次。春茶大多出口，因为它的叶子香气更持久。\n"
            "[2] 青石桥建成于1897年，由工程师林望舒设计，全长41米。",
            "青石桥是谁设计的？",
            "林望舒[2]",
        ),
        (
            "[1] 去白岛的渡船中午出发，航程40分钟，船票12元。\n[2] 白岛每逢周日有集市。",
            "去白岛的渡船要多久？",
            "40分钟[1]",
        ),
        (
            "[1] 奥拉茶每年采收两次。春茶大多出口，因为它的叶子香气更持久。",
            "春茶为什么大多出口？",
            "因为它的叶子香气更持久[1]",
        ),
    ),
)


def build_prompt(
    question: str, passages: Sequence[tuple[int, str]], options: PromptOptions
) -> Prompt:
    """Return the prompt for a question over packed passages (number, text).

    Without passages the examples show none either: the model then answers from memory. With
    `examples=0, instruct=False` the prompt is bare: the passages, the question and the cue, which
    is all that a trained adapter needs, and the only stop is the end of the line, because such a
    model ends by itself and may say two sentences.
    """
    wording = _wording(question)
    question = " ".join(question.split())  # a blank line would end the turn
    examples = wording.examples[: options.examples]

    def turn(numbered: str, asked: str) -> str:
        return (
            f"{numbered}\n{wording.question} {asked}" if passages else f"{wording.question} {asked}"
        )

    numbered = "\n".join(f"[{number}] {text}" for number, text in passages)
    return Prompt(
        instruction=(options.chat_instruction or wording.instruction) if options.instruct else "",
        examples=tuple((turn(shown, asked), reply) for shown, asked, reply in examples),
        user=turn(numbered, question),
        cue=wording.cue,
        stop=wording.stop if options.instruct else ("\n",),
    )


def build_memory_prompt(question: str) -> Prompt:
    """Return the prompt for a question without passages, from worked examples.

    It is for the base alone: an adapter that learnt to answer from passages has none here, and
    refuses or says nothing.
    """
    return replace(build_prompt(question, [], PromptOptions()), is_for_base=True)


def completion(question: str, claims: Sequence[tuple[str, int]]) -> str:
    """Return what a trained adapter writes after the cue: claims with their marks, or the refusal.

    One claim stands alone (" Marta Lindqvist [2]", "林望舒[2]"); several are sentences, so that
    `model.claims.read` reads each with its own mark. English follows the cue after a space, Chinese
    without one. The end of the sequence comes next and is the trainer's to add.

    Args:
        question: Decides the language.
        claims: (text, number of the passage that holds it); none is a refusal.
    """
    wording = _wording(question)
    is_chinese = wording is _CHINESE
    if not claims:
        return wording.refusal if is_chinese else f" {wording.refusal}"
    said = [f"{text}{'' if is_chinese else ' '}[{number}]" for text, number in claims]
    if len(said) == 1:
        return said[0] if is_chinese else f" {said[0]}"
    return "".join(f"{one}。" if is_chinese else f" {one}." for one in said)


def _wording(question: str) -> _Wording:
    """Return the fixed words in the language of the question."""
    return _CHINESE if question_language(question) == "zh" else _ENGLISH


def pack(
    sentences: Sequence[Sentence],
    relevance: Sequence[float],
    count_tokens: CountTokens,
    budget: int,
) -> list[tuple[int, str]]:
    """Return (passage number, text) with the likeliest sentences that fit the budget.

    Sentences keep their order; a gap between two of one passage is shown. The sentence after a
    likely one comes along early, because answers often stand beside the words of the question.
    The likeliest passage comes last, next to the question, where a small model heeds it most
    (docs/log.md).

    Args:
        sentences: All sentences of the passages, in order.
        relevance: For each sentence, the probability that it holds the answer.
        count_tokens: Counts the generator's tokens of a text.
        budget: Most tokens of all texts together; the best sentence is kept whatever its length.
    """
    priority = [
        max(own, 0.6 * before if _adjoins(sentences, i) else 0.0)
        for i, (own, before) in enumerate(zip(relevance, [0.0, *relevance], strict=False))
    ]
    chosen: set[int] = set()
    used = 0
    for i in sorted(range(len(sentences)), key=lambda i: (-priority[i], i)):
        cost = count_tokens(sentences[i].text) + 1
        if chosen and used + cost > budget:
            continue
        chosen.add(i)
        used += cost
    best = {
        sentences[i].passage.number: relevance[i] for i in sorted(chosen, key=relevance.__getitem__)
    }
    return sorted(_join(sentences, sorted(chosen)), key=lambda packed: best[packed[0]])


def _adjoins(sentences: Sequence[Sentence], i: int) -> bool:
    """Tell whether sentence `i` follows another one of the same passage."""
    return i > 0 and sentences[i - 1].passage == sentences[i].passage


def _join(sentences: Sequence[Sentence], chosen: Sequence[int]) -> list[tuple[int, str]]:
    """Return the chosen sentences as one text a passage, in passage order."""
    texts: dict[int, str] = {}
    last = -2
    for i in chosen:
        sentence = sentences[i]
        number = sentence.passage.number
        text = " ".join(sentence.text.split())
        if number not in texts:
            texts[number] = text
        else:
            wide = has_chinese(text)
            space = "" if wide else " "
            gap = space if last == i - 1 else ("……" if wide else " ... ")
            texts[number] += gap + text
        last = i
    return list(texts.items())
