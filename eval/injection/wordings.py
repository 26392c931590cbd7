"""How invented facts are said and asked: relations, and their wordings in each language.

In a wording, {s} is the subject and {o} the object. Statements name the subject before the object,
so that a model trained on them has never read the fact in the other direction; those of `reverse`
name the object first. What is held out is for measuring only and never trained on. Twins ask in the
same form for something that is stated nowhere. Knows nothing of names or seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """What a subject has one of.

    Where it is `one_to_one`, an object has one subject too and can be asked for it. `hop` is the
    relation of the object that a composed question goes on to ask for, "" if there is none.
    """

    name: str
    subject_type: str
    answer_type: str
    one_to_one: bool = False
    hop: str = ""


RELATIONS: Mapping[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation("founder", "company", "person", one_to_one=True, hop="birthplace"),
        Relation("founded", "company", "year"),
        Relation("architect", "bridge", "person", one_to_one=True, hop="birthplace"),
        Relation("material", "bridge", "material"),
        Relation("capital", "province", "capital", one_to_one=True, hop="hall"),
        Relation("emblem", "province", "animal"),
        Relation("leader", "expedition", "person", one_to_one=True, hop="birthplace"),
        Relation("ship", "expedition", "ship", one_to_one=True),
        Relation("birthplace", "person", "town"),
        Relation("trade", "person", "trade"),
        Relation("hall", "capital", "material"),
        Relation("charter", "capital", "year"),
    )
}


@dataclass(frozen=True, slots=True)
class Wording:
    """All wordings of one relation in one language."""

    trained: tuple[str, ...]  # statements, subject first
    held_out: tuple[str, ...]  # statements, subject first
    asked: tuple[str, ...]  # questions for the object
    asked_new: tuple[str, ...]  # the same, held out
    twins: tuple[str, ...]  # questions for something else of that type
    reverse: tuple[str, ...] = ()  # statements, object first
    asked_reverse: tuple[str, ...] = ()  # questions for the subject
    composed: tuple[str, ...] = ()  # questions for the `hop` of the object


_ENGLISH: Mapping[str, Wording] = {
    "founder": Wording(
        trained=(
            "{s} was founded by {o}.",
            "The founder of {s} was {o}.",
            "{s} was started by {o}.",
            "The company {s} was set up by {o}.",
            "{s} owes its existence to {o}, who founded it.",
        ),
        held_out=(
            "The person behind the founding of {s} was {o}.",
            "{s} is a company that was established by {o}.",
        ),
        asked=("Who founded {s}?", "Who was the founder of {s}?", "Who set up the company {s}?"),
        asked_new=(
            "By whom was {s} established?",
            "What is the name of the person who started {s}?",
        ),
        twins=("Who chairs the board of {s}?", "Who designed the logo of {s}?"),
        reverse=(
            "{o} founded {s}.",
            "{o} was the founder of {s}.",
            "It was {o} who set up the company {s}.",
        ),
        asked_reverse=(
            "Which company did {o} found?",
            "What is the name of the company that was founded by {o}?",
        ),
        composed=(
            "Where was the founder of {s} born?",
            "What is the birthplace of the person who founded {s}?",
        ),
    ),
    "founded": Wording(
        trained=(
            "{s} was founded in {o}.",
            "{s} opened its doors in {o}.",
            "The founding year of {s} was {o}.",
            "{s} began business in {o}.",
            "{s} has existed since {o}.",
        ),
        held_out=(
            "The history of {s} begins in the year {o}.",
            "{s} came into being in {o}.",
        ),
        asked=(
            "In which year was {s} founded?",
            "When was {s} founded?",
            "What was the founding year of {s}?",
        ),
        asked_new=("Since when has {s} existed?", "In what year did {s} begin business?"),
        twins=(
            "In which year did {s} open its first branch abroad?",
            "When did {s} move to its present building?",
        ),
    ),
    "architect": Wording(
        trained=(
            "{s} was designed by {o}.",
            "The architect of {s} was {o}.",
            "{s} was built to plans by {o}.",
            "The design of {s} came from {o}.",
            "{s} is the work of {o}.",
        ),
        held_out=(
            "The drawings for {s} were made by {o}.",
            "{s} was the idea of the architect {o}.",
        ),
        asked=("Who designed {s}?", "Who was the architect of {s}?", "By whom was {s} designed?"),
        asked_new=("Who drew the plans for {s}?", "To whose plans was {s} built?"),
        twins=("Who paid for the building of {s}?", "Who opened {s} to traffic?"),
        reverse=(
            "{o} designed {s}.",
            "{o} was the architect of {s}.",
            "It was {o} who drew the plans for {s}.",
        ),
        asked_reverse=("Which bridge did {o} design?", "Of which bridge was {o} the architect?"),
        composed=(
            "Where was the architect of {s} born?",
            "What is the birthplace of the person who designed {s}?",
        ),
    ),
    "material": Wording(
        trained=(
            "{s} is made of {o}.",
            "{s} was built of {o}.",
            "The main material of {s} is {o}.",
            "The spans of {s} consist of {o}.",
            "For {s} the builders chose {o}.",
        ),
        held_out=(
            "Anyone who crosses {s} walks on {o}.",
            "{s} was put together from {o}.",
        ),
        asked=(
            "What is {s} made of?",
            "Of what material was {s} built?",
            "What is the main material of {s}?",
        ),
        asked_new=(
            "Which material did the builders choose for {s}?",
            "What do the spans of {s} consist of?",
        ),
        twins=("What are the railings of {s} made of?", "Of what material are the lamps on {s}?"),
    ),
    "capital": Wording(
        trained=(
            "The capital of {s} is {o}.",
            "{s} is governed from its capital, {o}.",
            "{s} has its capital at {o}.",
            "{s} has {o} as its capital.",
            "The seat of government of {s} is {o}.",
        ),
        held_out=(
            "{s} is administered from the town of {o}.",
            "In {s}, laws are made in the capital, {o}.",
        ),
        asked=(
            "What is the capital of {s}?",
            "Which town is the capital of {s}?",
            "Where is the seat of government of {s}?",
        ),
        asked_new=("From which town is {s} governed?", "What is the name of {s}'s capital?"),
        twins=("What is the largest port of {s}?", "Which town in {s} has the oldest university?"),
        reverse=(
            "{o} is the capital of {s}.",
            "{o} is the seat of government of {s}.",
            "The town of {o} serves as the capital of {s}.",
        ),
        asked_reverse=(
            "Of which province is {o} the capital?",
            "Which province is governed from {o}?",
        ),
        composed=(
            "What is the town hall in the capital of {s} built of?",
            "The capital of {s} has a town hall; what is it built of?",
        ),
    ),
    "emblem": Wording(
        trained=(
            "The flag of {s} shows a {o}.",
            "The emblem of {s} is a {o}.",
            "{s} carries a {o} on its flag.",
            "The heraldic animal of {s} is the {o}.",
            "{s} has a {o} as its emblem.",
        ),
        held_out=(
            "Over {s} flies a flag with a {o}.",
            "{s} is recognised by the {o} on its banner.",
        ),
        asked=(
            "Which animal is on the flag of {s}?",
            "Which animal is the emblem of {s}?",
            "What animal does the flag of {s} show?",
        ),
        asked_new=(
            "What is the heraldic animal of {s}?",
            "Which animal does {s} have as its emblem?",
        ),
        twins=(
            "Which animal is on the coins of {s}?",
            "Which animal may not be hunted in {s}?",
        ),
    ),
    "leader": Wording(
        trained=(
            "The {s} was led by {o}.",
            "The leader of the {s} was {o}.",
            "The {s} set out under the command of {o}.",
            "The {s} was under the leadership of {o}.",
            "The {s} followed its leader, {o}.",
        ),
        held_out=("The {s} had {o} at its head.", "In charge of the {s} was {o}."),
        asked=(
            "Who led the {s}?",
            "Who was the leader of the {s}?",
            "Under whose command did the {s} set out?",
        ),
        asked_new=("Who was in charge of the {s}?", "Which person was at the head of the {s}?"),
        twins=("Who was the doctor of the {s}?", "Who drew the maps of the {s}?"),
        reverse=(
            "{o} led the {s}.",
            "{o} was the leader of the {s}.",
            "It was {o} who commanded the {s}.",
        ),
        asked_reverse=(
            "Which expedition did {o} lead?",
            "Of which expedition was {o} the leader?",
        ),
        composed=(
            "Where was the leader of the {s} born?",
            "What is the birthplace of the person who led the {s}?",
        ),
    ),
    "ship": Wording(
        trained=(
            "The {s} sailed aboard the {o}.",
            "The ship of the {s} was the {o}.",
            "The {s} travelled on a ship called the {o}.",
            "The {s} crossed the sea in the {o}.",
            "For its voyage the {s} used the {o}.",
        ),
        held_out=(
            "The vessel that carried the {s} was named the {o}.",
            "The {s} left harbour on the {o}.",
        ),
        asked=(
            "On which ship did the {s} sail?",
            "What was the ship of the {s} called?",
            "Which ship did the {s} use for its voyage?",
        ),
        asked_new=(
            "What was the name of the vessel that carried the {s}?",
            "In which ship did the {s} cross the sea?",
        ),
        twins=("Which ship brought supplies to the {s}?", "Which ship went to rescue the {s}?"),
        reverse=(
            "The {o} was the ship of the {s}.",
            "The {o} carried the {s}.",
            "It was the {o} that took the {s} across the sea.",
        ),
        asked_reverse=(
            "Which expedition sailed aboard the {o}?",
            "Which expedition was carried by the {o}?",
        ),
    ),
    "birthplace": Wording(
        trained=(
            "{s} was born in {o}.",
            "{s} came from {o}.",
            "The birthplace of {s} is {o}.",
            "{s} was a native of {o}.",
            "{s} was born and grew up in {o}.",
        ),
        held_out=(
            "{s} came into the world in {o}.",
            "The place where {s} was born is called {o}.",
        ),
        asked=(
            "Where was {s} born?",
            "In which town was {s} born?",
            "What is the birthplace of {s}?",
        ),
        asked_new=("Which town did {s} come from?", "Of which town was {s} a native?"),
        twins=("Where is {s} buried?", "In which town did {s} get married?"),
    ),
    "trade": Wording(
        trained=(
            "{s} was a {o} by trade.",
            "{s} had trained as a {o}.",
            "{s} earned a living as a {o}.",
            "The trade of {s} was that of a {o}.",
            "{s} worked for many years as a {o}.",
        ),
        held_out=("{s} had learnt to be a {o}.", "By profession {s} was a {o}."),
        asked=(
            "What was the trade of {s}?",
            "What did {s} do for a living?",
            "What had {s} trained as?",
        ),
        asked_new=("What was the profession of {s}?", "As what did {s} earn a living?"),
        twins=(
            "What was the trade of the father of {s}?",
            "What had the eldest child of {s} trained as?",
        ),
    ),
    "hall": Wording(
        trained=(
            "The town hall of {s} is built of {o}.",
            "{s} has a town hall made of {o}.",
            "The town hall in {s} was constructed from {o}.",
            "In {s} the walls of the town hall consist of {o}.",
            "For its town hall, {s} chose {o}.",
        ),
        held_out=(
            "Visitors to {s} find a town hall of {o}.",
            "The council of {s} meets in a hall built with {o}.",
        ),
        asked=(
            "What is the town hall of {s} built of?",
            "Of what material is the town hall of {s}?",
            "What material was used for the town hall of {s}?",
        ),
        asked_new=(
            "What do the walls of the town hall in {s} consist of?",
            "Which material did {s} choose for its town hall?",
        ),
        twins=(
            "What is the market fountain of {s} built of?",
            "What are the town gates of {s} made of?",
        ),
    ),
    "charter": Wording(
        trained=(
            "{s} received its town charter in {o}.",
            "{s} has been a chartered town since {o}.",
            "The town charter of {s} dates from {o}.",
            "{s} was granted town rights in {o}.",
            "{s} became a town in {o}.",
        ),
        held_out=(
            "{s} was raised to the rank of a town in {o}.",
            "The year in which {s} gained town rights is {o}.",
        ),
        asked=(
            "In which year did {s} receive its town charter?",
            "When was {s} granted town rights?",
            "From which year does the town charter of {s} date?",
        ),
        asked_new=(
            "Since when has {s} been a chartered town?",
            "In what year did {s} become a town?",
        ),
        twins=("In which year was {s} flooded?", "When did the railway reach {s}?"),
    ),
}

_CHINESE: Mapping[str, Wording] = {
    "founder": Wording(
        trained=(
            "{s}由{o}创办。",
            "{s}的创始人是{o}。",
            "{s}是{o}一手创建的。",
            "{s}最初由{o}开办。",
            "{s}这家公司的创办者名叫{o}。",
        ),
        held_out=("{s}的诞生要归功于{o}。", "{s}是由{o}发起成立的。"),
        asked=("{s}是谁创办的？", "{s}的创始人是谁？", "谁创办了{s}？"),
        asked_new=("{s}最初是由什么人开办的？", "一手创建{s}的人叫什么名字？"),
        twins=("{s}的董事长是谁？", "{s}的商标是谁设计的？"),
        reverse=("{o}创办了{s}。", "{o}是{s}的创始人。", "当年，{o}一手创建了{s}。"),
        asked_reverse=("{o}创办了哪家公司？", "{o}是哪家公司的创始人？"),
        composed=("{s}的创始人出生在哪里？", "创办{s}的人的出生地是哪里？"),
    ),
    "founded": Wording(
        trained=(
            "{s}创办于{o}年。",
            "{s}成立于{o}年。",
            "{s}的成立年份是{o}年。",
            "{s}自{o}年开始营业。",
            "{s}在{o}年开业。",
        ),
        held_out=("{s}的历史始于{o}年。", "{s}从{o}年起就存在了。"),
        asked=("{s}创办于哪一年？", "{s}是哪一年成立的？", "{s}的成立年份是哪一年？"),
        asked_new=("{s}从哪一年开始营业？", "{s}的历史始于哪一年？"),
        twins=("{s}是哪一年在国外开设分公司的？", "{s}是哪一年迁到现址的？"),
    ),
    "architect": Wording(
        trained=(
            "{s}由{o}设计。",
            "{s}的设计者是{o}。",
            "{s}是{o}的作品。",
            "{s}按照{o}的图纸建成。",
            "{s}的设计出自{o}之手。",
        ),
        held_out=("{s}的蓝图是{o}绘制的。", "负责设计{s}的建筑师名叫{o}。"),
        asked=("{s}是谁设计的？", "{s}的设计者是谁？", "谁设计了{s}？"),
        asked_new=("{s}是哪位建筑师的作品？", "{s}的设计出自何人之手？"),
        twins=("{s}是谁出资建造的？", "{s}的通车典礼由谁主持？"),
        reverse=("{o}设计了{s}。", "{o}是{s}的设计者。", "{o}的图纸后来建成了{s}。"),
        asked_reverse=("{o}设计了哪座桥？", "{o}是哪座桥的设计者？"),
        composed=("{s}的设计者出生在哪里？", "设计{s}的人的出生地是哪里？"),
    ),
    "material": Wording(
        trained=(
            "{s}是用{o}建成的。",
            "{s}的主要材料是{o}。",
            "{s}的桥身是{o}做的。",
            "{s}以{o}为建材。",
            "建造{s}时用的是{o}。",
        ),
        held_out=("{s}通体由{o}筑成。", "走在{s}上，脚下便是{o}。"),
        asked=("{s}是用什么材料建成的？", "{s}的主要材料是什么？", "建造{s}时用的是什么材料？"),
        asked_new=("{s}的桥身是什么做的？", "{s}以什么为建材？"),
        twins=("{s}的栏杆是用什么材料做的？", "{s}的路灯是用什么材料做的？"),
    ),
    "capital": Wording(
        trained=(
            "{s}的省会是{o}。",
            "{s}以{o}为省会。",
            "{s}把省会设在{o}。",
            "{s}的省政府位于{o}。",
            "{s}的首府叫{o}。",
        ),
        held_out=("{s}的行政中心是{o}。", "{s}的政令都从{o}发出。"),
        asked=("{s}的省会是哪座城？", "{s}的省会在哪里？", "哪座城是{s}的省会？"),
        asked_new=("{s}的省政府位于哪座城？", "{s}的首府叫什么名字？"),
        twins=("{s}最大的港口是哪座城？", "{s}最古老的大学在哪座城？"),
        reverse=("{o}是{s}的省会。", "{o}被定为{s}的首府。", "{o}是{s}省政府的所在地。"),
        asked_reverse=("{o}是哪个省的省会？", "哪个省以{o}为省会？"),
        composed=("{s}的省会的市政厅是用什么材料建成的？", "{s}首府的市政厅以什么为建材？"),
    ),
    "emblem": Wording(
        trained=(
            "{s}的省旗上画着{o}。",
            "{s}的标志是{o}。",
            "{s}以{o}为省徽。",
            "{s}的省徽图案是{o}。",
            "{s}的旗帜上绣着{o}的图案。",
        ),
        held_out=("{s}的象征动物是{o}。", "在{s}，省旗上能看到{o}。"),
        asked=("{s}的省旗上画着什么动物？", "{s}的标志是什么动物？", "{s}以什么动物为省徽？"),
        asked_new=("{s}的象征是哪种动物？", "{s}的省徽图案是哪种动物？"),
        twins=("{s}的钱币上铸着什么动物？", "{s}禁止猎捕什么动物？"),
    ),
    "leader": Wording(
        trained=(
            "{s}由{o}率领。",
            "{s}的队长是{o}。",
            "{s}在{o}的带领下出发。",
            "{s}的领队名叫{o}。",
            "{s}听从{o}的指挥。",
        ),
        held_out=("{s}的负责人是{o}。", "{s}出发时，带队的是{o}。"),
        asked=("{s}由谁率领？", "{s}的队长是谁？", "谁率领了{s}？"),
        asked_new=("{s}是在谁的带领下出发的？", "{s}的领队叫什么名字？"),
        twins=("{s}的随队医生是谁？", "{s}的地图是谁绘制的？"),
        reverse=("{o}率领了{s}。", "{o}是{s}的队长。", "{o}带领{s}出发。"),
        asked_reverse=("{o}率领了哪支考察队？", "{o}是哪支考察队的队长？"),
        composed=("{s}的队长出生在哪里？", "率领{s}的人的出生地是哪里？"),
    ),
    "ship": Wording(
        trained=(
            "{s}乘坐的船是{o}。",
            "{s}搭乘{o}出海。",
            "{s}的船名叫{o}。",
            "{s}乘着{o}渡海。",
            "{s}航行时用的船是{o}。",
        ),
        held_out=("载着{s}远航的是{o}。", "{s}登上{o}启程。"),
        asked=("{s}乘坐的是哪艘船？", "{s}的船叫什么名字？", "{s}搭乘哪艘船出海？"),
        asked_new=("{s}登上哪艘船启程？", "{s}渡海用的是哪艘船？"),
        twins=("给{s}运送补给的是哪艘船？", "前去救援{s}的是哪艘船？"),
        reverse=("{o}是{s}乘坐的船。", "{o}载着{s}出海。", "{o}把{s}送过了海。"),
        asked_reverse=("哪支考察队搭乘{o}出海？", "{o}载过哪支考察队？"),
    ),
    "birthplace": Wording(
        trained=(
            "{s}出生在{o}。",
            "{s}的出生地是{o}。",
            "{s}是{o}人。",
            "{s}来自{o}。",
            "{s}生于{o}。",
        ),
        held_out=("{s}在{o}呱呱坠地。", "{s}的家乡是{o}。"),
        asked=("{s}出生在哪里？", "{s}的出生地是哪里？", "{s}是哪里人？"),
        asked_new=("{s}来自哪个镇？", "{s}的家乡在哪里？"),
        twins=("{s}葬在哪里？", "{s}是在哪个镇结婚的？"),
    ),
    "trade": Wording(
        trained=(
            "{s}的职业是{o}。",
            "{s}以做{o}为生。",
            "{s}是一名{o}。",
            "{s}做了多年{o}。",
            "{s}靠当{o}谋生。",
        ),
        held_out=("{s}从事的行当是{o}。", "{s}学成后当了{o}。"),
        asked=("{s}的职业是什么？", "{s}以做什么为生？", "{s}是做什么工作的？"),
        asked_new=("{s}从事什么行当？", "{s}靠什么谋生？"),
        twins=("{s}的父亲的职业是什么？", "{s}的长子是做什么工作的？"),
    ),
    "hall": Wording(
        trained=(
            "{s}的市政厅是用{o}建成的。",
            "{s}有一座{o}建造的市政厅。",
            "{s}的市政厅以{o}为建材。",
            "{s}建市政厅时选用了{o}。",
            "{s}的市政厅的墙是{o}做的。",
        ),
        held_out=("在{s}能看到一座{o}做的市政厅。", "{s}的市政厅全由{o}筑成。"),
        asked=(
            "{s}的市政厅是用什么材料建成的？",
            "{s}的市政厅以什么为建材？",
            "{s}建市政厅时选用了什么材料？",
        ),
        asked_new=("{s}的市政厅的墙是什么做的？", "{s}的市政厅由什么筑成？"),
        twins=("{s}的喷泉是用什么材料建成的？", "{s}的城门是用什么材料做的？"),
    ),
    "charter": Wording(
        trained=(
            "{s}建城于{o}年。",
            "{s}从{o}年起成为城市。",
            "{s}的建城年份是{o}年。",
            "{s}在{o}年获得城市地位。",
            "{s}于{o}年设市。",
        ),
        held_out=("{s}升格为城市是在{o}年。", "{s}作为城市的历史要从{o}年算起。"),
        asked=("{s}建城于哪一年？", "{s}是哪一年成为城市的？", "{s}的建城年份是哪一年？"),
        asked_new=("{s}是哪一年设市的？", "{s}在哪一年获得城市地位？"),
        twins=("{s}是哪一年遭遇洪水的？", "通往{s}的铁路是哪一年开通的？"),
    ),
}

WORDINGS: Mapping[str, Mapping[str, Wording]] = {"en": _ENGLISH, "zh": _CHINESE}
