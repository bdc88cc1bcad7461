"""The sentences: the right one for each case, unknown stays unknown, foreign text stays text."""

import dataclasses

import pytest

from app import texts

GIB = 2**30


def with_memory(rec, **changes):
    return dataclasses.replace(rec, memory=dataclasses.replace(rec.memory, **changes))


def test_headline_answers_about_this_machine_with_numbers(records):
    rec = records.recommendation()
    sentence = texts.headline(rec, "en")
    assert sentence.startswith("This machine trains test-model in ")
    assert "14.1 GiB" in sentence


def test_headline_names_a_catalogue_machine(records):
    rec = records.recommendation(machine=records.gpu_machine(source="catalogue"))
    assert texts.headline(rec, "en").startswith("1 \u00d7 Tesla T4 trains")


def test_headline_of_a_machine_that_is_too_small_says_what_is_missing(records):
    rec = records.recommendation(records.Question(pins={"per_device_train_batch_size": 8}))
    assert "keeps all your pins" in texts.headline(rec, "en")
    without = dataclasses.replace(rec.conflicts[0], ways_out=())
    sentence = texts.headline(dataclasses.replace(rec, conflicts=(without,)), "en")
    assert "even the smallest plan needs 23.3 GiB and 14.1 are free" in sentence


def test_headline_speaks_of_the_cpu_where_no_gpu_trains(records):
    cpu = dataclasses.replace(records.cpu_machine(), ram_free_bytes=20 * GIB)
    assert "on 2 CPU cores" in texts.headline(records.recommendation(machine=cpu), "en")


def test_headline_uses_the_capacity_once_it_is_known(records):
    rec = records.recommendation()
    sentence = texts.headline(rec, "en", {"full": 1_100_000_000, "lora": 9_000_000_000})
    assert sentence == (
        "This machine fully trains models up to 1.1 B parameters, with LoRA up to 9.0 B."
    )
    assert "up to" not in texts.headline(rec, "en", {"full": None, "lora": None})


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("verdict", ["fits", "tight", "does_not_fit", "unknown"])
def test_each_verdict_has_a_sentence_in_both_languages(records, verdict, lang):
    rec = with_memory(records.recommendation(), verdict=verdict)
    assert texts.headline(rec, lang)
    assert texts.verdict_sentence(rec.plan, rec.memory, rec.time, lang)


def test_does_not_fit_says_by_how_much(records):
    rec = with_memory(
        records.recommendation(),
        verdict="does_not_fit",
        process_bytes=20 * GIB,
        capacity_bytes=15 * GIB,
    )
    sentence = texts.verdict_sentence(rec.plan, rec.memory, rec.time, "en")
    assert sentence == "It needs 20.0 GiB, 5.0 more than is free."


def test_unknown_numbers_are_said_to_be_unknown(records):
    rec = with_memory(records.recommendation(), process_bytes=None, verdict="unknown")
    assert "unknown" in texts.verdict_sentence(rec.plan, rec.memory, None, "en")


def test_number_of_epochs_decides_the_grammar(records):
    rec = records.recommendation()
    one = rec.plan.replace(num_train_epochs=1.0)
    assert "one epoch takes" in texts.verdict_sentence(one, rec.memory, rec.time, "en")
    assert "3 epochs take" in texts.verdict_sentence(rec.plan, rec.memory, rec.time, "en")


def test_data_facts_say_what_is_cut(records):
    assert "no row is cut" in texts.data_facts(records.data(), 2048, "en")[1]
    assert "of the rows lose text at 512" in texts.data_facts(records.data(), 512, "en")[1]


def test_text_of_a_user_cannot_become_markup():
    escaped = texts.escape("[x](http://evil) `code` **bold** :red[y] <b>\n# title $a$")
    for char in "`*[]<>#$:":
        assert escaped.count(char) == escaped.count("\\" + char)
    assert "\n" not in escaped


def test_listing_joins_names():
    assert texts.listing(["a"], "en") == "a"
    assert texts.listing(["a", "b", "c"], "en") == "a, b and c"
