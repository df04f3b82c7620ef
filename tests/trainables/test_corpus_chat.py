"""CHAT transcripts: what was said, without what the transcriber wrote about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.corpus.chat import clean, utterances
from trainables.corpus.readers import read_lines

TRANSCRIPT = """\
@UTF8
@PID:\t11312/c-00000001-1
@Begin
@Languages:\teng
@Participants:\tCHI Eve Target_Child , MOT Mother
@ID:\teng|made|CHI|1;06.00|female|||Target_Child|||
@Comment:\ta header may go on
\tin a second line with *words*
*CHI:\tmore cookie . \x15904_2334\x15
%mor:\tqn|more n|cookie .
%gra:\t1|2|QUANT 2|0|INCROOT 3|2|PUNCT
*MOT:\tyou 0v <more cookies> [!] (.) or do you
\twant &-uh (be)cause you're hungry ? \x152334_
\t4000\x15
%com:\tsays it twice
\tand looks at her
*CHI:\txxx .
*CHI:\t0 [=! nods] .
*CHI2:\tno +//.
@G:\tnext game
*MOT:\twhat's this „ Evie ?
@End
"""


def test_a_transcript(tmp_path: Path) -> None:
    """Main tiers are documents, with the lines that go on; headers and other tiers are not; an
    utterance without a word is none."""
    expected = [
        (9, "more cookie."),
        (12, "you more cookies or do you want uh because you're hungry?"),
        (19, "no."),
        (21, "what's this, Evie?"),
    ]
    assert list(utterances(TRANSCRIPT.splitlines(keepends=True))) == expected
    file = tmp_path / "eve.cha"
    file.write_bytes(b"\xef\xbb\xbf" + TRANSCRIPT.replace("\n", "\r\n").encode())
    assert list(read_lines(file)) == [text for _, text in expected]


@pytest.mark.parametrize(
    ("utterance", "text"),
    [
        # Terminators and linkers
        ("I want +...", "I want..."),
        ("you want +..?", "you want?"),
        ("and then +/.", "and then."),
        ("is it +//?", "is it?"),
        ("what +!?", "what?"),
        ('he said +"/.', "he said."),
        ('+" come here .', "come here."),
        ("+< yes .", "yes."),
        ("++ and you !", "and you!"),
        ("+, down there .", "down there."),
        ("+^ no .", "no."),
        # Retracing, overlaps, and remarks on the words before
        ("<the dog> [/] the dog barks .", "the dog the dog barks."),
        ("<I wan> [//] I need it [?] .", "I wan I need it."),
        ("that [x 3] is <mine> [>1] !", "that is mine!"),
        ("gonna [: going to] goed [* m:=ed] .", "gonna goed."),
        ("it [= the [big] ball] rolls [% loud] .", "it rolls."),
        ("[- spa] hola [+ IMIT] .", "hola."),
        # Parts of words, pauses, times
        ("(be)cause I'm doin(g) it .", "because I'm doing it."),
        ("well (.) I (..) think (1.5) so (2:03.5) .", "well I think so."),
        ("look # there ## now .", "look there now."),
        ('go \x15120_340\x15 on . \x15%snd:"a b"_1_2\x15', "go on."),
        ("no:: ba:nana at 3:30 .", "no banana at 3:30."),
        ("↫b-b↫baby ˈgo ↑up ⌈there⌉ .", "baby go up there."),
        # What is no word
        ("&=laughs come &=points:at_door in .", "come in."),
        ("&+fr friends &~gaga play .", "friends play."),
        ("&-um so &-you_know .", "um so you know."),
        ("I go &*MOT:mhm home .", "I go home."),
        ("xxx want yyy www .", "want."),
        ("xxx , yes .", "yes."),
        ("he 0is here 0 .", "he here."),
        ("&=cries .", ""),
        ("www .", ""),
        ("yyy [=! babbles] !", ""),
        ("", ""),
        # Forms of words
        ("the woof@o goes to mama@f , gato@s:spa .", "the woof goes to mama, gato."),
        ("choo+choo to New_York .", "choo choo to New York."),
        ("bear$n here .", "bear here."),
        ("mommy ‡ look , a dog !", "mommy, look, a dog!"),
        ("he said “no” .", "he said “no”."),
        ("Ça va , l'été ?", "Ça va, l'été?"),
    ],
)
def test_codes(utterance: str, text: str) -> None:
    """Each code of the CHAT manual goes, and the words around it stay."""
    assert clean(utterance) == text
