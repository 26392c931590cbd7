"""Encodings: the text comes back as it was written, or is refused; it is never garbled.

The paragraphs below were written for this test.
"""

# ruff: noqa: E501 - paragraphs read better whole

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.encodings import decode, decode_names
from ingest.errors import SourceError
from ingest.markup import parse_html

SIMPLIFIED = """老街尽头有一家旧书店，店主姓郑，六十多岁，戴一副圆眼镜。每天上午九点，他把门前的木板一块一块卸下来，\
搬出两张长桌，把新收来的旧书摆好。来的客人多半是附近大学的学生，也有退休的工程师和喜欢收藏地图的医生。
郑先生从不催人买书。他说，书像种子，遇到合适的土壤才会发芽。有一次，一位小姑娘在角落里读完了整本诗集，\
天黑了才发现自己没有带钱，他笑着摆摆手，让她把书借回家去。三年以后，那位姑娘考上了中文系，带着自己发表的第一篇小说回来看他。
如今城市改造的通知贴到了墙上，下个月整条街都要拆除。学生们自发组织起来，用手机把每一排书架拍成照片，\
建了一个网站，希望这家书店能在别处重新开张。"""
TRADITIONAL = """港口的清晨總是從漁船的引擎聲開始。天還沒有亮，碼頭上已經站滿了等待的商販，他們提著竹籃，戴著斗笠，\
低聲談論昨夜的風浪與今天的價錢。船一靠岸，銀亮的魚便一箱一箱地傳上來，冰塊在燈光下閃閃發亮。
阿婆在這裡擺攤已經四十年了。她記得每一位老客人的口味，誰家的孩子喜歡吃蝦，誰家的老人只能喝清淡的魚湯。\
她常說，做生意就是做人，秤要準，話要實，心要寬。颱風來的那一年，整座碼頭都被海水淹沒，鄰居們互相幫忙，\
把損壞的木屋一間一間修好，沒有人抱怨，也沒有人離開。
現在年輕人多半到臺北工作，只有過年才回來。可是每當他們聞到海風的氣味，就會想起小時候在這裡奔跑的夏天。"""
JAPANESE = """祖母の家は山のふもとにあって、夏になると庭のひまわりが屋根よりも高く伸びた。朝早く起きると、\
台所から味噌汁のにおいがして、ラジオでは天気予報が流れていた。わたしは縁側に座って、冷たい麦茶を飲みながら、\
遠くの電車がトンネルに入っていくのを数えていた。
昼すぎ、近所の子どもたちと川へ行き、石を積んで小さなダムを作った。水は驚くほど冷たく、魚は手のひらをすり抜けて逃げた。\
夕方になると、祖母が大きな声でわたしたちの名前を呼ぶ。その声は谷に響いて、少し遅れてもう一度聞こえてくる。
いま、あの家にはだれも住んでいない。それでも八月になると、わたしは必ず切符を買って、静かな駅に降りる。"""
ENGLISH = """The lighthouse keeper’s daughter learned to read from the logbook, one storm at a time. \
“Wind north-west, force nine,” she would whisper, tracing her father’s careful letters – and then she \
would look out to see whether the sea agreed. By the age of ten she kept the records herself. At the \
café in the village, people said she knew the naïve tricks of every tide.
When the lamp was made automatic, nobody needed a keeper any more. She stayed all the same, and wrote \
down what the instruments could not: the colour of the water, the first swallow, the sound of ice."""
GERMAN = """Im Frühling öffnete die alte Bäckerei an der Brücke wieder ihre Türen. Über dem Eingang hing ein \
geschmiedetes Schild, das der Großvater vor fünfzig Jahren für die Straße gefertigt hatte. „Früher“, sagte \
die Bäckerin, „kamen die Flößer schon um vier Uhr, müde und durchgefroren.“ Heute stehen Schüler vor der \
Theke und wählen zwischen Mohnbrötchen und süßen Hörnchen, während draußen die Straßenbahn vorüberfährt."""
FRENCH = """Au bout de l’allée, derrière la grille rouillée, commençait le royaume de mon père : trois pommiers, un \
puits à moitié comblé et une serre où mûrissaient des tomates. Il y passait ses journées, préférant le \
silence des légumes aux conversations du café. « Ça pousse », répondait-il quand on l’interrogeait sur sa \
santé. L’été dernier, j’ai retrouvé ses carnets : chaque gelée, chaque récolte y était notée avec soin."""
RUSSIAN = """Старый мост через реку закрыли осенью, когда вода поднялась выше обычного. Жители обоих берегов привыкли \
ездить в объезд, и только почтальон каждое утро переходил его пешком, с тяжёлой сумкой на плече. Он говорил, \
что письма не должны опаздывать, даже если опаздывает весь город."""
KOREAN = """할머니의 집은 산 아래에 있었고 여름이 되면 마당의 해바라기가 지붕보다 높이 자랐다. 아침 일찍 일어나면 \
부엌에서 된장국 냄새가 났고 라디오에서는 날씨 소식이 흘러나왔다. 나는 마루에 앉아서 시원한 보리차를 마시며 \
멀리 지나가는 기차를 세곤 했다."""

UNICODE = [f"utf-{size}{end}" for size in (16, 32) for end in ("", "-le", "-be")]
UNICODE += ["utf-8", "utf-8-sig"]
CASES = [
    *((SIMPLIFIED, encoding) for encoding in ("gb2312", "gbk", "gb18030", *UNICODE)),
    *((TRADITIONAL, encoding) for encoding in ("big5", "big5hkscs", "cp950", "gb18030", *UNICODE)),
    *((JAPANESE, encoding) for encoding in ("shift_jis", "cp932", "euc_jp", *UNICODE)),
    *((ENGLISH, encoding) for encoding in ("cp1252", *UNICODE)),
    *((GERMAN, encoding) for encoding in ("cp1252", *UNICODE)),
    *((GERMAN.replace("„", '"').replace("“", '"'), encoding) for encoding in ("latin-1",)),
    *((FRENCH, encoding) for encoding in ("cp1252", *UNICODE)),
    *((FRENCH.replace("’", "'"), encoding) for encoding in ("latin-1",)),
    *((RUSSIAN, encoding) for encoding in ("cp1251", "koi8_r", *UNICODE)),
    *((KOREAN, encoding) for encoding in ("euc_kr", "cp949", *UNICODE)),
]
MIXED = ["RAG ", "\n\n# README v2.1\n", "<p class='x'>", "https://example.org/a?b=c ", " = 42;\n"]


def read(data: bytes) -> str | None:
    try:
        return decode("a.txt", data)[0]
    except SourceError:
        return None


def extracts(text: str, seed: int) -> list[str]:
    """Return spans of 20 to 5,000 characters of a text, half of them with ASCII strewn in."""
    generator = random.Random(seed)
    found = []
    for size in [20, 25, 30, 40, 50, 50, 60, 80, 100, 150, 250, 600, 5_000]:
        for mixes in (False, True):
            start = generator.randrange(len(text))
            span = (text[start:] + text * (size // len(text) + 1))[:size]
            cuts = sorted(generator.choices(range(size), k=max(1, size // 40)))
            for cut in reversed(cuts if mixes else []):
                span = span[:cut] + generator.choice(MIXED) + span[cut:]
            found.append(span)
    return found


@pytest.mark.parametrize(("text", "encoding"), CASES)
def test_text_is_read_right_or_refused(text: str, encoding: str) -> None:
    long = right = 0
    for span in [span for seed in range(4) for span in extracts(text, seed)]:
        decoded = read(span.encode(encoding))
        assert decoded in (span, None)
        if len(span) >= 50:
            long += 1
            right += decoded is not None
    promised = text not in (RUSSIAN, KOREAN) or encoding.startswith("utf-8")
    assert right >= (0.99 if promised else 0.95) * long


@pytest.mark.parametrize(("text", "encoding"), CASES)
def test_a_file_cut_within_a_character(text: str, encoding: str) -> None:
    """What is left is read without the cut character, or refused."""
    for size in (24, 60, 130):
        data = text[:size].encode(encoding)
        for cut in range(1, 9):
            decoded = read(data[:-cut])
            assert decoded is None or (text.startswith(decoded) and len(decoded) >= size - cut - 1)
            decoded = read(data[cut:])
            # What a cut start leaves may read as a common character; no evidence is against that.
            assert decoded is None or (decoded[2:] in text[:size] and len(decoded) >= size - 9)


def test_cut_utf8_keeps_all_whole_characters() -> None:
    data = SIMPLIFIED.encode()
    assert read(data[:-1]) == read(data[:-2]) == SIMPLIFIED[:-1]
    assert read(data[1:]) == read(data[2:]) == SIMPLIFIED[1:]


@given(st.text(st.sampled_from(SIMPLIFIED + " RAG-v2.1"), min_size=20))
@settings(max_examples=60, deadline=None)
def test_shuffled_characters_are_read_right_or_refused(text: str) -> None:
    for encoding in ("gb18030", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8"):
        assert read(text.encode(encoding, "ignore")) in (text, None)


@pytest.mark.parametrize("encoding", ["cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874"])
def test_code_pages_that_are_not_told_apart_are_refused(encoding: str) -> None:
    text = {
        "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy, zažehl oheň a šel dál.",
        "cp1253": "Η παλιά γέφυρα έκλεισε το φθινόπωρο, όταν ανέβηκε το νερό.",
        "cp1254": "Eski köprü sonbaharda kapandı; ışık, ağaç ve yağmur kaldı geriye.",
        "cp1255": "הגשר הישן נסגר בסתיו כאשר המים עלו מעל הרגיל",
        "cp1256": "أغلق الجسر القديم في الخريف عندما ارتفع الماء فوق المعتاد",
        "cp874": "สะพานเก่าปิดในฤดูใบไม้ร่วงเมื่อน้ำขึ้นสูงกว่าปกติ",
    }[encoding]
    assert read(text.encode(encoding)) is None


def test_the_encoding_is_reported() -> None:
    for text, encoding, reported in [
        (SIMPLIFIED, "gb2312", "gb18030"),
        (TRADITIONAL, "big5", "big5hkscs"),
        (JAPANESE, "shift_jis", "cp932"),
        (JAPANESE, "iso2022_jp", "iso2022_jp_ext"),
        (FRENCH, "cp1252", "cp1252"),
        (FRENCH, "utf-16-be", "utf-16-be"),
    ]:
        assert decode("a.txt", text.encode(encoding)) == (text, reported)


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (SIMPLIFIED, "gb18030", "big5"),
        (SIMPLIFIED, "gb18030", "iso-8859-1"),
        (SIMPLIFIED, "gb18030", "utf-8"),
        (SIMPLIFIED, "utf-8", "gb2312"),
        (TRADITIONAL, "big5", "gb2312"),
        (TRADITIONAL, "big5", "shift_jis"),
        (JAPANESE, "euc_jp", "gb2312"),
        (JAPANESE, "shift_jis", "windows-1252"),
        (KOREAN, "euc_kr", "gb2312"),
        (FRENCH, "cp1252", "big5"),
        (RUSSIAN, "koi8_r", "windows-1251"),
        (RUSSIAN, "cp1251", "no-such-encoding"),
    ],
)
def test_evidence_overrules_a_wrong_declaration(text: str, encoding: str, declared: str) -> None:
    page = f'<meta charset="{declared}"><p>{text.splitlines()[0]}</p>'
    assert parse_html("a.html", page.encode(encoding)).text == text.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zażółć gęślą jaźń, ręka w rękę.", "iso-8859-2"),
        ("Příliš žluťoučký kůň.", "windows-1250"),
        ("鑫淼", "gb2312"),
        ("Η παλιά γέφυρα", "iso-8859-7"),
        ("雪の日", "iso-2022-jp"),
        ("½ × 2²", "iso-8859-1"),
    ],
)
def test_a_right_declaration_is_believed(text: str, encoding: str) -> None:
    data = text.encode("gb18030" if encoding == "gb2312" else encoding)
    assert decode("a.html", data, encoding)[0] == text


def test_file_names_of_archives() -> None:
    for names, encoding in [
        (["报告.txt", "附件/合同.pdf"], "gbk"),
        (["報告.txt", "附件/合約.pdf"], "big5"),
        (["レポート.txt", "写真.pdf"], "cp932"),
        (["année.txt", "Größe.txt"], "cp437"),
        (["报告.txt", "résumé.txt"], "utf-8"),
        (["a.txt"], "ascii"),
    ]:
        assert decode_names([name.encode(encoding) for name in names]) == names
