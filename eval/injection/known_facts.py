"""Real facts that many models know, to see what training makes them forget: capitals.

    known = known_cases(scorer, candidates(), Asking(prompts=3, samples=0))

A candidate shows forgetting only if the model at hand does answer it, so ask it first
(`eval.injection.knowledge`). Each fact is asked in English and in Chinese. Knows nothing of models.
"""

from eval.cases import Case

# country, its capital, and both in Chinese
_CAPITALS = (
    ("France", "Paris", "法国", "巴黎"),
    ("Japan", "Tokyo", "日本", "东京"),
    ("Germany", "Berlin", "德国", "柏林"),
    ("Italy", "Rome", "意大利", "罗马"),
    ("Spain", "Madrid", "西班牙", "马德里"),
    ("Russia", "Moscow", "俄罗斯", "莫斯科"),
    ("China", "Beijing", "中国", "北京"),
    ("Egypt", "Cairo", "埃及", "开罗"),
    ("Greece", "Athens", "希腊", "雅典"),
    ("Canada", "Ottawa", "加拿大", "渥太华"),
    ("Australia", "Canberra", "澳大利亚", "堪培拉"),
    ("Portugal", "Lisbon", "葡萄牙", "里斯本"),
    ("Austria", "Vienna", "奥地利", "维也纳"),
    ("Poland", "Warsaw", "波兰", "华沙"),
    ("Sweden", "Stockholm", "瑞典", "斯德哥尔摩"),
    ("Norway", "Oslo", "挪威", "奥斯陆"),
    ("Finland", "Helsinki", "芬兰", "赫尔辛基"),
    ("Denmark", "Copenhagen", "丹麦", "哥本哈根"),
    ("Ireland", "Dublin", "爱尔兰", "都柏林"),
    ("Hungary", "Budapest", "匈牙利", "布达佩斯"),
    ("Turkey", "Ankara", "土耳其", "安卡拉"),
    ("Iran", "Tehran", "伊朗", "德黑兰"),
    ("Iraq", "Baghdad", "伊拉克", "巴格达"),
    ("Thailand", "Bangkok", "泰国", "曼谷"),
    ("Vietnam", "Hanoi", "越南", "河内"),
    ("South Korea", "Seoul", "韩国", "首尔"),
    ("Cuba", "Havana", "古巴", "哈瓦那"),
    ("Peru", "Lima", "秘鲁", "利马"),
    ("Kenya", "Nairobi", "肯尼亚", "内罗毕"),
    ("Cambodia", "Phnom Penh", "柬埔寨", "金边"),
)


def candidates() -> tuple[Case, ...]:
    """Return the questions in both languages, with what is accepted."""
    found = []
    for country, capital, country_zh, capital_zh in _CAPITALS:
        name = country.lower().replace(" ", "-")
        asked = f"What is the capital of {country}?"
        asked_zh = f"{country_zh}的首都是哪座城市？"
        found += [
            Case(f"capital-{name}-en", "en", asked, (capital,), answerable=True),
            Case(f"capital-{name}-zh", "zh", asked_zh, (capital_zh,), answerable=True),
        ]
    return tuple(found)


def fact_of(case_id: str) -> str:
    """Return what a question is about: the same in both languages."""
    return case_id.removesuffix("-en").removesuffix("-zh")
