"""Follow-up questions and what they mean alone: (before, question, readings), all self-made.

`before` are pairs of a question and its answer, oldest first. The first reading is the wanted one;
any of them counts as right. A question that has to stay as it is, because it stands alone or
because nobody can be sure, has itself as its only reading. The
rules of `model.rewriting` were written with KNOWN at hand. UNSEEN and ALONE, questions that must
stay as they are, were counted before they were looked at: 29 of 32 right and 3 misread, 25 of 34
kept. What was mended since is no longer unseen: they guard against regress and measure nothing.
"""

LIGHT = ("When was the lighthouse built?", "It was built in 1887.")
NORWAY = ("What was the population of Norway in 2010?", "It was 4.9 million.")
TOWER = ("灯塔有多高？", "塔高三十二米。")
CITY = ("2010年挪威的人口是多少？", "四百九十万。")

Before = tuple[tuple[str, str], ...]
FollowUp = tuple[Before, str, tuple[str, ...]]


def kept(*before: tuple[str, str], question: str) -> FollowUp:
    """Return a question that must not be changed."""
    return before, question, (question,)


KNOWN: tuple[FollowUp, ...] = (
    ((LIGHT,), "And how tall is it?", ("How tall is the lighthouse?",)),
    ((LIGHT, ("How tall is the lighthouse?", "32 metres.")), "Who designed it?",
     ("Who designed the lighthouse?",)),
    ((("Who founded Acme Corporation?", "Acme Corporation was founded by Mary Lee."),),
     "When was she born?", ("When was Mary Lee born?",)),
    ((NORWAY,), "And in 2020?", ("What was the population of Norway in 2020?",)),
    ((NORWAY,), "What about Sweden?", ("What was the population of Sweden in 2010?",)),
    ((("How does overfitting arise?", "A model learns the noise."),), "How can it be prevented?",
     ("How can overfitting be prevented?",)),
    ((("What is catastrophic forgetting?", "The loss of old tasks."),), "Why does it happen?",
     ("Why does catastrophic forgetting happen?",)),
    ((("Who wrote The Old Harbour?", "Nora Bell."),), "When was it published?",
     ("When was The Old Harbour published?",)),
    ((("How tall is the lighthouse?", "32 metres."),), "and the bridge?",
     ("How tall is the bridge?",)),
    ((("Tell me about Marie Curie.", "A physicist."),), "Where was she born?",
     ("Where was Marie Curie born?",)),
    ((("What does the contract say about notice periods?", "Three months."),),
     "What about holidays?", ("What does the contract say about holidays?",)),
    ((("Where do puffins nest?", "On cliffs."),), "What is their diet?",
     ("What is puffins' diet?", "What is the diet of puffins?")),
    kept(question="How tall is it?"),
    kept(LIGHT, question="Is it true that whales sleep?"),
    kept(LIGHT, question="How tall is the Statue of Liberty?"),
    kept(NORWAY, question="What is the capital of Spain and how large is it?"),
    kept(("Did Anna or Maria win the race?", "One of them did."), question="How old is she?"),
    kept(LIGHT, question="Is there a ferry to the island?"),
    ((TOWER,), "它是什么时候建的？", ("灯塔是什么时候建的？",)),
    ((TOWER,), "那钟楼呢？", ("钟楼有多高？",)),
    ((CITY,), "那2020年呢？", ("2020年挪威的人口是多少？",)),
    ((CITY,), "瑞典呢？", ("2010年瑞典的人口是多少？",)),
    ((("挪威的人口是多少？", "四百九十万。"),), "面积呢？", ("挪威的面积是多少？",)),
    ((("挪威的人口是多少？", "四百九十万。"),), "2020年呢？",
     ("2020年挪威的人口是多少？", "挪威2020年的人口是多少？")),
    ((TOWER,), "什么时候建的？", ("灯塔是什么时候建的？", "灯塔什么时候建的？")),
    ((("什么是灾难性遗忘？", "旧任务的丢失。"),), "怎么避免它？", ("怎么避免灾难性遗忘？",)),
    ((("什么是灾难性遗忘？", "旧任务的丢失。"),), "如何避免？",
     ("灾难性遗忘如何避免？", "如何避免灾难性遗忘？")),
    ((("谁写了《旧港》？", "诺拉·贝尔。"),), "它是哪一年出版的？", ("《旧港》是哪一年出版的？",)),
    ((("故宫在哪里？", "在北京。"),), "它的面积是多少？", ("故宫的面积是多少？",)),
    kept(question="它有多高？"),
    kept(TOWER, question="谁发明了电话？"),
    kept(TOWER, question="怎么做红烧肉？"),
    kept(TOWER, question="那它呢？"),
    kept(CITY, question="其他国家的首都在哪里？"),
)  # fmt: skip

UNSEEN: tuple[FollowUp, ...] = (
    ((("When did the ferry service start?", "In 1923."),), "Who runs it?",
     ("Who runs the ferry service?",)),
    ((("What is retrieval-augmented generation?", "It adds passages."),), "What are its limits?",
     ("What are retrieval-augmented generation's limits?",
      "What are the limits of retrieval-augmented generation?")),
    ((("Who painted the Harbour at Dusk?", "It was painted by Edda Holm."),),
     "Where did she study?", ("Where did Edda Holm study?",)),
    ((("How much did the museum earn in 2019?", "Two million."),), "and in 2021?",
     ("How much did the museum earn in 2021?",)),
    ((("What is the melting point of copper?", "1085 degrees."),), "And of tin?",
     ("What is the melting point of tin?",)),
    ((("What is the melting point of copper?", "1085 degrees."),), "How about silver?",
     ("What is the melting point of silver?",)),
    ((("Where is the Kestrel Museum?", "In Alder Street."),), "When does it open?",
     ("When does the Kestrel Museum open?",)),
    ((("Why do language models hallucinate?", "They guess."),), "How can they be corrected?",
     ("How can language models be corrected?",)),
    ((LIGHT,), "Was it ever damaged by a storm?", ("Was the lighthouse ever damaged by a storm?",)),
    ((("Which river flows through Varn?", "The Olm."),), "How long is it?",
     ("How long is it?", "How long is the Olm?")),
    kept(LIGHT, question="What is a keeper paid?"),
    kept(LIGHT, question="When did the company move its office?"),
    kept(("Who met Peter in Rome?", "Paul met him."), question="What did he say?"),
    kept(LIGHT, question="It rains a lot here, why?"),
    kept(LIGHT, question="And why?"),
    kept(NORWAY, question="那面积呢？"),
    ((("谁设计了海岸博物馆？", "李明设计了海岸博物馆。"),), "它什么时候开放？",
     ("海岸博物馆什么时候开放？",)),
    ((("红烧肉要炖多长时间？", "一个小时。"),), "清蒸鱼呢？",
     ("清蒸鱼要炖多长时间？", "清蒸鱼呢？")),
    ((("铜的熔点是多少？", "一千零八十五度。"),), "那锡呢？", ("锡的熔点是多少？",)),
    ((("铜的熔点是多少？", "一千零八十五度。"),), "密度呢？", ("铜的密度是多少？",)),
    ((("博物馆2019年的收入是多少？", "两百万。"),), "2021年呢？", ("博物馆2021年的收入是多少？",)),
    ((("语言模型为什么会产生幻觉？", "因为猜测。"),), "它们能被纠正吗？",
     ("语言模型能被纠正吗？",)),
    ((("预训练是什么？", "从大量文本学习。"),), "有哪些缺点？",
     ("预训练有哪些缺点？",)),
    ((("长江有多长？", "六千三百公里。"),), "那黄河呢?", ("黄河有多长？",)),
    ((("年假有几天？", "十天。"),), "病假呢？", ("病假有几天？",)),
    ((("灯塔是谁建的？", "海岸公司。"),), "多少钱？", ("灯塔多少钱？", "多少钱？")),
    ((("合同的期限是多久？", "三年。"),), "它可以提前终止吗？", ("合同可以提前终止吗？",)),
    kept(TOWER, question="公司什么时候搬迁了它的办公室？"),
    kept(TOWER, question="渡轮的票价是多少？"),
    kept(TOWER, question="为什么？"),
    kept(TOWER, question="你好"),
    kept(("小红和小丽谁跑得快？", "差不多。"), question="她几岁？"),
)  # fmt: skip

# Each is asked after LIGHT or TOWER, by its language.
ALONE: tuple[str, ...] = (
    "What is it called when a model forgets old tasks?",
    "Who was the keeper and where did he live?",
    "How does the company treat its customers?",
    "Does the report say that they were right?",
    "Can it be that the figures are wrong?",
    "And who paid for the bridge?",
    "What about the plan makes people angry?",
    "How about we stop here?",
    "Why is it that dogs bark?",
    "Which rooms have windows?",
    "When Peter came to the island, what did he bring?",
    "What time is it?",
    "And now?",
    "Thanks!",
    "In which year did the war end?",
    "Summarise the document.",
    "What is its purpose, the purpose of the act?",
    "这个方法有效呢？",
    "这样做对呢？",
    "为什么呢？",
    "他们说了什么呢？",
    "合同到期以后怎么办？",
    "谁来负责？",
    "公司的员工在哪里吃饭，他们吃什么？",
    "吉他有几根弦？",
    "其他部门有多少人？",
    "谢谢",
    "总结一下这份文档。",
    "小红什么时候告诉妈妈她要走？",
    "还有呢？",
    "然后呢？",
    "你觉得呢？",
    "什么是过拟合？",
    "几点了？",
)
