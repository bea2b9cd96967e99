from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curation.caption_answers import accepted
from curation.caption_choice import CaptionChoice, agreement
from curation.caption_config import CaptionConfig
from curation.caption_prompts import prompt_of
from curation.schema import RowError

ENDPOINT = {"model": "m", "url": "http://localhost:8000/v1"}
DOG = "A brown dog runs to the left on a beach."


def config(**settings: Any) -> CaptionConfig:
    return CaptionConfig.model_validate({"endpoint": ENDPOINT, **settings})


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (DOG, DOG),
        (f"  {DOG}\n\n", DOG),
        (f'"{DOG}"', DOG),
        (f"Caption: {DOG}", DOG),
        ('A sign says "5 < 6".\nA man\'s hand moves.', 'A sign says "5 < 6". A man\'s hand moves.'),
        ("A sorry-looking dog cannot reach the ball.", "A sorry-looking dog cannot reach the ball."),
        ("A sign in Chinese reads 你好 above a door.", "A sign in Chinese reads 你好 above a door."),
    ],
)
def test_a_caption_is_taken_out_of_its_answer(answer: str, caption: str) -> None:
    assert accepted(answer, config()) == caption


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        ("", "caption_nonsense", "the answer is empty"),
        ('""', "caption_nonsense", "the answer is empty"),
        (" \n", "caption_nonsense", "the answer is empty"),
        ("I'm sorry, but I can't assist with that.", "caption_refused", "the model refuses: I'm sorry"),
        ("I cannot describe this video.", "caption_refused", "the model refuses"),
        ("As an AI, I have no eyes.", "caption_refused", "the model refuses"),
        ("Unfortunately, I can’t see it.", "caption_refused", "the model refuses"),
        ("Please provide the images.", "caption_refused", "the model refuses"),
        ("<!DOCTYPE html><html></html>", "caption_nonsense", "the answer is markup"),
        (f"<p>{DOG}</p>", "caption_nonsense", "the answer is markup"),
        (f"```\n{DOG}\n```", "caption_nonsense", "the answer is markup"),
        (f'{{"caption": "{DOG}"}}', "caption_nonsense", "the answer is JSON"),
        ("[1, 2, 3, 4, 5, 6, 7]", "caption_nonsense", "the answer is JSON"),
        ("A dog.", "caption_nonsense", r"the answer has 6 characters \(caption.min_chars 8, caption.max_chars 3000\)"),
        ("word " * 700, "caption_nonsense", "the answer has 3499 characters"),
        ("A dog runs and runs. " * 12, "caption_nonsense", "the answer repeats 'a dog runs and'"),
        ("the the the the " * 8, "caption_nonsense", "the answer repeats 'the the the the'"),
        ("一只棕色的狗在沙滩上向左奔跑。", "caption_nonsense", "the answer is not in English"),
        ("Коричневая собака бежит.", "caption_nonsense", "the answer is not in English"),
        ("A dog \ufffd runs in the park.", "caption_nonsense", "the answer is damaged"),
        ("12345 67890 !!", "caption_nonsense", "the answer is not in English"),
        ("A dog\x1b[2J runs away.", "caption_nonsense", "the control character U[+]001B"),
    ],
)
def test_what_is_no_caption_has_a_reason(answer: str, reason: str, detail: str) -> None:
    with pytest.raises(RowError, match=detail) as caught:
        accepted(answer, config())
    assert caught.value.reason == reason


def test_the_language_is_the_one_that_was_asked_for() -> None:
    said = {
        "zh": "一只棕色的狗在沙滩上向左奔跑。",
        "ru": "Коричневая собака бежит.",
        "en": DOG,
        "de": "Ein Hund läuft weg.",
    }
    said |= {"ja": "茶色い犬がビーチを左へ走っています。", "ko": "갈색 개가 해변에서 왼쪽으로 달린다."}
    for language, text in said.items():
        assert accepted(text, config(language=language)) == text
        assert accepted(text, config(language=None)) == text
    for language, other in (("zh", "en"), ("en", "ja"), ("ko", "zh"), ("ru", "de"), ("ja", "ko")):
        with pytest.raises(RowError, match="the answer is not in"):
            accepted(said[other], config(language=language))


def test_events_are_lines_with_times_and_the_caption_is_their_sentences() -> None:
    events = "0.0-1.5: A dog runs.\n- 1.5 s – 3 s: It stops, and looks: at 5.\n"
    assert accepted(events, config(style="per_event")) == "A dog runs. It stops, and looks: at 5."
    for wrong, detail in ((DOG, "a line is no event"), ("3-1: A dog runs away.", "an event ends before it begins")):
        with pytest.raises(RowError, match=detail):
            accepted(wrong, config(style="per_event"))


def test_a_prompt_is_its_source_s_template_filled_in() -> None:
    row = {"source": "web", "media": "video", "duration_s": 2.0, "caption": "a {dog}"}
    found = prompt_of("{media} of {source}, {duration_s} s, {{was}}: {caption}. {language}", "short", "de", row)
    assert found == "video of web, 2.00 s, {was}: a {dog}. Answer in German."
    assert prompt_of("{style} {language}", "short", None, row).startswith("Describe what is shown")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": None}, "name one of caption.endpoint"),
        ({"model": "folder"}, "name one of caption.endpoint"),
        ({"template": "{capton}"}, r"a template names \{capton\}; there are \{style\}"),
        ({"template": "{caption.__class__}"}, "a template names"),
        ({"templates": {"web": "{caption"}}, "is no template"),
        ({"times_s": [1.0, 0.5]}, "do not ascend"),
        ({"min_chars": 9, "max_chars": 8}, "min_chars 9 is larger"),
        ({"request": {"messages": []}}, "request names messages, which the stage fills in"),
        ({"request": {"api_key": "sk"}}, "request.api_key looks like a credential"),
        ({"request": {"extra_body": [{"Authorization": "sk"}]}}, "request.extra_body.Authorization looks like a cred"),
        ({"endpoint": {"model": "m", "url": "http://me:pw@host/v1"}}, "may hold no key"),
        ({"endpoint": {"model": "m", "url": "http://host/v1?key=sk"}}, "may hold no key"),
        ({"endpoint": {"model": "m", "url": "file:///v1"}}, "is no address such as"),
        ({"endpoint": {"model": "m", "key_env": "sk-123"}}, "should match pattern"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_how_an_endpoint_is_asked_is_in_no_identity() -> None:
    plain = config().identity()
    asked = {**ENDPOINT, "url": "http://other/v1", "key_env": "K", "in_flight": 99, "max_requests": 1}
    assert config(endpoint=asked, use="mix", mix_share=0.1).identity() == plain
    assert config(endpoint=ENDPOINT | {"model": "n"}).identity() != plain
    assert config(style="short").identity() != plain
    assert CaptionConfig.model_validate(plain.model_dump()) == plain
    assert CaptionConfig(model="a").identity() == CaptionConfig(model="b").identity()
    # A network that is asked for the likeliest answer draws nothing.
    sampled = CaptionConfig(model="a", seed=1, temperature=0.5, request={"top_p": 0.5})
    assert sampled.identity() == CaptionConfig(model="a").identity()
    assert config(seed=1).identity() != plain


def test_which_caption_trains() -> None:
    def of(use: Any, old: str | None, new: str | None, share: float = 0.5, name: str = "c") -> str | None:
        choice = CaptionChoice(use=use, mix_share=share, seed=3)
        return choice.of({"clip_id": name, "caption": old, "caption_new": new})

    assert [of(use, "old", "newer") for use in ("original", "new", "longest")] == ["old", "newer", "newer"]
    assert of("longest", "older", "new") == "older"
    assert [of(use, "old", None) for use in ("original", "new", "longest", "mix")] == ["old", None, "old", "old"]
    assert [of(use, " ", "new") for use in ("original", "new", "longest", "mix")] == [" ", "new", "new", "new"]
    assert [of(use, "", None) for use in ("original", "new", "longest", "mix")] == ["", None, None, None]
    assert [of("mix", "old", "new", share) for share in (0.0, 1.0)] == ["old", "new"]
    drawn = [of("mix", "old", "new", 0.3, str(number)) for number in range(400)]
    assert drawn == [of("mix", "old", "new", 0.3, str(number)) for number in range(400)]
    assert 90 < drawn.count("new") < 150


def test_captions_agree_by_the_words_that_tell_something() -> None:
    red = "A short clip: a red circle glides towards the left on a dark background."
    assert agreement(red, red) == 1
    assert agreement("a dog barks", "The dog is barking.") == 1
    assert agreement(red, "A red circle moves left.") > agreement(red, "A blue square moves up.")  # type: ignore[operator]
    assert agreement("", red) is agreement(red, "the of a") is None


def test_captions_without_blanks_agree_by_their_letters() -> None:
    dog, runs, cat = "一只棕色的狗在沙滩上向左奔跑。", "棕色的狗在沙滩上奔跑", "厨房里白猫正在睡觉"
    same, other = agreement(dog, runs), agreement(dog, cat)
    assert same is not None
    assert other is not None
    assert same > 0.6 > 0.1 > other
    assert agreement("红色circle", "红色 circle") == 1
    assert agreement("犬", "犬") == 1
