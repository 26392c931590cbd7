"""Names of things that do not exist, and pools of values, for the facts of `eval.injection.facts`.

People, towns, companies and the like are made of syllables, so that no model has read of them; a
name that holds a real well-known one is not used. Values that a sentence needs as they are
(materials, animals, trades, years) are real words. Chinese names are made of the characters that
transliterate foreign names, with no letter of another script. Knows nothing of facts.
"""

import random
from collections.abc import Mapping

from ingest.errors import UsageError

SPARE = 50  # names in a pool beyond those in use; a pool has no fewer entries than this
LANGUAGES = ("en", "zh")

# What a name of each kind is made of; the stem alone is as good an answer.
_PATTERNS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "company": "{} Instruments",
        "bridge": "{} Bridge",
        "province": "{} Province",
        "expedition": "{} Expedition",
        "capital": "{}",
        "town": "{}",
    },
    "zh": {
        "company": "{}仪器公司",
        "bridge": "{}大桥",
        "province": "{}省",
        "expedition": "{}考察队",
        "capital": "{}城",
        "town": "{}镇",
    },
}

# English stems: an onset, then vowel and consonants in turn, then an ending that few words have.
_ONSETS = "b br d dr f g gr h k kr l m n p pr r s sk t th tr v z".split()
_VOWELS = "a e i o u".split()
_MIDDLES = "l r n v d th lm lb rd nd sk lv rn".split()
_ENDINGS = "eth uk osk ath ulm irn ez ov ax esh und org ilk omb ys".split()
_GIVEN_ENDINGS = "ax eth ix uin osk avi umi ori elu iro isk ovar enna".split()

# Characters of transliteration, by where in a name they are usual.
_FIRST = "艾贝布达德迪杜厄法菲戈古哈赫霍基伽科莱洛鲁玛梅莫纳尼努佩普齐瑞萨塞索塔特瓦维沃雅伊约泽佐"
_MIDDLE = "巴贝达迪多尔芬格加科克兰勒里利洛伦曼米莫纳诺努普日萨赛塔特图维温亚耶兹"
_LAST = "丹登尔夫格金肯朗勒林隆曼姆诺恩娜森思坦廷图瓦文兹"

# Stems that hold one of these are not used: well-known names, and syllables of bad taste.
REAL: Mapping[str, frozenset[str]] = {
    "en": frozenset(
        "aachen aaron abraham adam adler alan albert alexand algeria amsterd anders angola"
        " antoni arthur athens austen austria babylon balkan barcelon bavaria beirut"
        " belgium berlin bernard boliv bolog bosnia boston brandon brazil brigham bruno"
        " brussel budapest calvin canada caroli cezann chile china conrad corsica dakota"
        " dallas damask daniel dante darwin david denver donald dublin edison edward egypt"
        " einstein elvis euler europe faraday ferdinand florence france freud galile gandhi"
        " geneva genova george german gordon goethe greece hamburg hannov harold havana"
        " hegel helsink henry hilbert hitler holland homer hubble hungar iceland india"
        " ireland isaac israel istanbul italy jakob japan john jordan karol kazakh kelvin"
        " kenya kepler korea krakow krakov latvia lebanon lenin leonard leopold lima"
        " linneus lisbon london louis luther madrid magellan malta manila marco maria mark"
        " martin mendel mexico milan moldov monet moroc moscow mozart munich myanmar nairob"
        " napoleon nelson nepal newton nigeria nobel norway norman novak odessa oslo oxford"
        " panama paris pascal perth peter plato poland porto prague quebec renoir riga"
        " robert robin roland romania rome rubens russia salomon samuel saxon schubert"
        " senegal serbia seoul shakes siberia simon skopje socrat solomon spain stalin"
        " sudan sweden sydney syria taipei taiwan tehran tesla texas thailand thomas tokyo"
        " toledo toronto tunis turing turkey turner ukraine uruguay vatican venice verdi"
        " verona vienna vietnam virgil volta voltaire wagner warsaw watson wien william"
        " zambia zagreb zurich nazi rape slut shit fuk fuck dick porn cunt anus kill dead"
        " hell".split()
    ),
    "zh": frozenset(
        "阿根廷 艾森豪 爱因斯坦 爱迪生 安徒生 奥巴马 巴黎 巴赫 巴西 柏林 贝多芬 贝尔 贝克"
        " 贝鲁特 布拉格 布鲁诺 布什 布隆迪 达尔文 达芬奇 达拉斯 达米 丹麦 但丁 德国 德里"
        " 迪拜 迪士尼 笛卡尔 杜威 法拉第 法国 凡高 菲律宾 芬兰 弗洛伊德 戈尔 戈雅 哥白尼"
        " 格林 哈里 哈佛 哈尔滨 赫尔曼 海明威 荷马 赫鲁晓夫 黑格尔 霍布斯 霍金 基辛格 基尔"
        " 基辅 基督 伽利略 居里 卡塔尔 开罗 康德 科西嘉 科尔 科威特 科索沃 克林顿 拉萨"
        " 莱布尼 莱比锡 里根 列宁 鲁迅 鲁本斯 伦敦 罗马 罗素 洛克 洛里 洛林 马德里 马克思"
        " 玛丽 玛雅 玛格丽特 曼德拉 梅西 米兰 莫奈 莫扎特 莫斯科 莫里 莫尔斯 纳粹 纳米比亚"
        " 南非 尼泊尔 尼采 尼克松 尼日尔 尼日利 牛顿 纽约 努比亚 诺贝尔 帕斯卡 佩里 佩恩"
        " 普京 普希金 普鲁 齐达内 瑞典 瑞士 萨达姆 萨特 萨尔茨 塞尔维亚 塞维利 塞尔 塞内加"
        " 莎士比亚 斯大林 苏格拉底 索马里 索尼 塔西佗 塔吉 泰戈尔 特朗普 特斯拉 特里 突尼斯"
        " 图灵 托尔斯泰 瓦格纳 瓦特 威尼斯 威尔逊 维也纳 维纳斯 维多利 维京 维尔纽 沃尔沃"
        " 沃尔玛 沃伦 乌克兰 西班牙 希特勒 雅典 雅加达 雅各 亚历山大 伊拉克 伊朗 伊斯坦布尔"
        " 伊利亚 约旦 约翰 约克 泽西 佐治亚 佐罗 雅尔塔 雅利安 哈萨 哈利 哈曼 特洛 特图"
        " 布里 布达 塔林 里加 赫尔 艾伦 艾滋 约瑟 德尔 纳尔 杜兰 梅尔 杜邦 索尔 菲尔 莫兰"
        " 普利 维基 法兰 霍尔 赫兹 玛莎 莱特 莱温 基加 尼科 科隆 科莫 莫莫 利马 达利 普林"
        " 达诺".split()
    ),
}

_MATERIALS = {
    "en": (
        "granite basalt marble sandstone limestone slate oak pine cedar larch"
        " beech teak walnut birch cherry bamboo elm ash alder acacia rosewood fir"
        " yew plywood maple chestnut poplar willow spruce mahogany ebony clay"
        " brick concrete cement iron steel brass copper bronze aluminium titanium"
        " glass crystal porcelain alabaster travertine gneiss obsidian flint"
        " gypsum terracotta jade pumice".split()
    ),
    "zh": (
        "花岗岩 玄武岩 大理石 砂岩 石灰岩 板岩 橡木 松木 雪松 落叶松 榉木 柚木"
        " 胡桃木 桦木 樱桃木 竹子 榆木 白蜡木 桤木 洋槐木 红木 冷杉 紫杉 胶合板"
        " 枫木 栗木 杨木 柳木 云杉 桃花心木 乌木 黏土 红砖 青砖 混凝土 水泥 生铁"
        " 钢材 黄铜 紫铜 青铜 铝材 钛合金 玻璃 水晶 瓷砖 雪花石膏 石灰华 片麻岩"
        " 黑曜石 燧石 陶土 玉石 浮石".split()
    ),
}
# English animals and trades begin with a consonant, for the article "a".
_ANIMALS = {
    "en": (
        "heron badger fox wolf bear lynx stag hare falcon raven swan crane stork pelican"
        " hawk beaver marten weasel boar bison ram goat horse bull lion tiger leopard"
        " panther camel dolphin seal walrus whale salmon trout pike carp turtle tortoise"
        " lizard viper cobra beetle bee butterfly dragonfly spider scorpion crab lobster"
        " squid peacock pheasant partridge quail rooster cuckoo nightingale".split()
    ),
    "zh": (
        "苍鹭 獾 狐狸 灰狼 棕熊 猞猁 牡鹿 野兔 猎鹰 渡鸦 天鹅 仙鹤 白鹳 鹈鹕 苍鹰 河狸 貂"
        " 黄鼬 野猪 野牛 公羊 山羊 骏马 公牛 雄狮 老虎 豹子 骆驼 海豚 海豹 海象 鲸鱼 鲑鱼"
        " 鳟鱼 梭鱼 鲤鱼 海龟 陆龟 蜥蜴 蝰蛇 眼镜蛇 甲虫 蜜蜂 蝴蝶 蜻蜓 蜘蛛 蝎子 螃蟹"
        " 龙虾 鱿鱼 孔雀 雉鸡 鹧鸪 鹌鹑 公鸡 杜鹃 夜莺".split()
    ),
}
_TRADES = {
    "en": (
        "clockmaker weaver baker butcher carpenter cooper tailor tanner potter printer"
        " bookbinder locksmith blacksmith goldsmith silversmith coppersmith saddler"
        " shoemaker hatter glover brewer miller gardener forester fisherman shepherd"
        " beekeeper mason bricklayer plasterer painter glazier roofer plumber ropemaker"
        " sailmaker boatbuilder wheelwright coachman porter pharmacist surgeon dentist"
        " midwife lawyer judge notary teacher librarian translator journalist photographer"
        " draughtsman surveyor cook waiter barber dyer".split()
    ),
    "zh": (
        "钟表匠 织布工 面包师 屠夫 木匠 箍桶匠 裁缝 鞣皮匠 陶工 印刷工 装订工 锁匠 铁匠"
        " 金匠 银匠 铜匠 马具匠 鞋匠 制帽匠 酿酒师 磨坊主 园丁 护林员 渔夫 牧羊人 养蜂人"
        " 石匠 泥瓦匠 抹灰工 油漆匠 玻璃匠 屋顶工 水管工 制绳匠 制帆匠 造船匠 车轮匠"
        " 马车夫 搬运工 药剂师 外科医生 牙医 助产士 律师 法官 公证人 教师 图书管理员 翻译"
        " 记者 摄影师 绘图员 测量员 厨师 侍者 理发师 染匠".split()
    ),
}
_COLOURS = {
    "en": (
        "Silver Golden Scarlet Crimson Azure Emerald Ivory Violet Copper Amber White Black"
        " Grey Green Blue".split()
    ),
    "zh": ("银色 墨绿 绯红 深红 蔚蓝 翠绿 雪白 紫色 赤铜 金黄 粉色 黑色 灰色 青色 橙色".split()),
}


class Names:
    """Draws names of one language, of which none holds another or a real one."""

    def __init__(self, language: str, rng: random.Random) -> None:
        """Start with no name in use.

        Args:
            language: "en" or "zh".
            rng: Where the names come from.

        Raises:
            UsageError: There are no names in that language.
        """
        if language not in LANGUAGES:
            raise UsageError(f"No names in {language!r}; choose from {', '.join(LANGUAGES)}.")
        self._language = language
        self._rng = rng
        self._stems: set[str] = set()

    def draw(self, kind: str, count: int) -> tuple[str, ...]:
        """Return so many new names of a kind: one of the patterns, "person" or "ship"."""
        if kind == "ship":
            return self._ships(count)
        if kind == "person":
            joint = " " if self._language == "en" else "·"
            return tuple(f"{self._stem(given=True)}{joint}{self._stem()}" for _ in range(count))
        return tuple(_PATTERNS[self._language][kind].format(self._stem()) for _ in range(count))

    def _ships(self, count: int) -> tuple[str, ...]:
        colours, animals = _COLOURS[self._language], _ANIMALS[self._language]
        if self._language == "en":
            ships = [f"{colour} {animal.capitalize()}" for colour in colours for animal in animals]
        else:
            ships = [f"{colour}{animal}号" for colour in colours for animal in animals]
        return tuple(self._rng.sample(ships, count))

    def _stem(self, *, given: bool = False) -> str:
        """Return a stem that neither holds nor is held by another one."""
        while True:
            made = self._english(given) if self._language == "en" else self._chinese(given)
            folded = made.lower()
            is_real = any(name in folded for name in REAL[self._language])
            if is_real or any(folded in old or old in folded for old in self._stems):
                continue
            self._stems.add(folded)
            return made

    def _english(self, given: bool) -> str:
        draw = self._rng.choice
        start = draw(_ONSETS) + draw(_VOWELS) + draw(_MIDDLES)
        if given:
            return (start + draw(_GIVEN_ENDINGS)).capitalize()
        return (start + draw(_VOWELS) + draw("l r n v d th".split()) + draw(_ENDINGS)).capitalize()

    def _chinese(self, given: bool) -> str:
        draw = self._rng.choice
        middle = "" if given else draw(_MIDDLE)
        made = draw(_FIRST) + middle + draw(_LAST)
        # A character that returns reads as a stutter.
        return made if len(set(made)) == len(made) else self._chinese(given)


def values(kind: str, language: str) -> tuple[str, ...]:
    """Return all values of a kind that is no name: "material", "animal", "trade" or "year"."""
    if kind == "year":
        return tuple(str(year) for year in range(1801, 1951))
    tables = {"material": _MATERIALS, "animal": _ANIMALS, "trade": _TRADES}
    return tuple(tables[kind][language])


def spellings(name: str, kind: str, language: str) -> tuple[str, ...]:
    """Return the name and what else is a right answer: "Dalvoresk Bridge" is Dalvoresk's too."""
    if kind == "person":
        return (name, name.split(" " if language == "en" else "·")[1])
    if kind in _PATTERNS[language]:
        suffix = _PATTERNS[language][kind].removeprefix("{}")
        return (name, name.removesuffix(suffix)) if suffix else (name,)
    if language == "zh" and kind in ("ship", "year"):
        return (name, name.removesuffix("号")) if kind == "ship" else (name, f"{name}年")
    return (name,)
