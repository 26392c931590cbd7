"""What the report of an experiment says, in English and in Chinese: verdicts, claims, headings.

Both languages have the same keys, and a sentence has the same places to fill in. Knows nothing of
what decides which sentence is said.
"""

SENTENCES = {
    "en": {
        "retrieve": (
            "Retrieve: with passages at hand ({arm}) the model answers {right} of the questions"
            " right, after fine-tuning ({other}) {other_right}: {difference} points more (95%"
            " interval {low} to {high}; {count} questions about {clusters} groups of facts)."
        ),
        "fine-tune": (
            "Fine-tune: after training ({arm}) the model answers {right} of the questions right,"
            " with passages ({other}) {other_right}: {difference} points more (95% interval {low}"
            " to {high}; {count} questions about {clusters} groups of facts)."
        ),
        "both": (
            "Do both: trained and with passages at hand ({arm}) the model answers {right} of the"
            " questions right, with the better one alone ({other}) {other_right}: {difference}"
            " points more (95% interval {low} to {high}; {count} questions about {clusters} groups"
            " of facts)."
        ),
        "cannot be told": (
            "It cannot be told yet: {arm} answers {right} of the questions right and {other}"
            " {other_right}, and the difference of {difference} points (95% interval {low} to"
            " {high}; {count} questions about {clusters} groups of facts) may be chance."
        ),
        "needed": " About {needed} groups of facts would tell.",
        "missing": (
            "It cannot be told yet: no retrieval arm was measured beside a trained one; measure"
            " both, with a larger budget."
        ),
        "forgets": (
            " The training has a price: {lost} points of the real facts that the model knew before"
            " are forgotten."
        ),
    },
    "zh": {
        "retrieve": (
            "用检索：附上检索到的段落（{arm}），模型答对 {right} 的问题；微调后（{other}）答对"
            " {other_right}，相差 {difference} 个百分点（95% 区间 {low} 至 {high}；{count} 个问题，"
            "{clusters} 组事实）。"
        ),
        "fine-tune": (
            "用微调：训练后（{arm}）模型答对 {right} 的问题；附上段落（{other}）答对"
            " {other_right}，"
            "相差 {difference} 个百分点（95% 区间 {low} 至 {high}；{count} 个问题，{clusters}"
            " 组事实）。"
        ),
        "both": (
            "两者并用：训练并附上段落（{arm}），模型答对 {right} 的问题；只用其中较好的一种"
            "（{other}）答对 {other_right}，相差 {difference} 个百分点（95% 区间 {low} 至 {high}；"
            "{count} 个问题，{clusters} 组事实）。"
        ),
        "cannot be told": (
            "尚无定论：{arm} 答对 {right} 的问题，{other} 答对 {other_right}，相差 {difference}"
            " 个百分点（95% 区间 {low} 至 {high}；{count} 个问题，{clusters} 组事实），可能只是"
            "偶然。"
        ),
        "needed": "约需 {needed} 组事实才能分辨。",
        "missing": "尚无定论：检索与训练未能并列测量；请用更大的预算把两者都测一遍。",
        "forgets": "训练也有代价：模型原来知道的真实事实中，有 {lost} 个百分点被遗忘。",
    },
}

CLAIMS = {
    "en": {
        "retrieval-far-above": "Retrieval is far above fine-tuning (by more than 20 points)",
        "paraphrases-needed": "Paraphrases teach more than one wording said as often",
        "reverse-near-chance": "Facts learnt forwards stay near chance when asked in reverse",
        "full-damages-context": "Full fine-tuning damages the use of passages",
        "replay-mends-context": "Replay mends the use of passages after full fine-tuning",
        "lora-retains-more": "LoRA keeps more known facts where equally much was learnt",
        "lora-drifts-less": "LoRA changes general text less where equally much was learnt",
    },
    "zh": {
        "retrieval-far-above": "检索远胜微调（超过 20 个百分点）",
        "paraphrases-needed": "多种说法比同一说法重复同样多次教得更多",
        "reverse-near-chance": "正向学会的事实，反过来问仍接近猜测",
        "full-damages-context": "全量微调损害对段落的使用",
        "replay-mends-context": "回放可修复全量微调后对段落的使用",
        "lora-retains-more": "学得同样多时，LoRA 保留更多已知事实",
        "lora-drifts-less": "学得同样多时，LoRA 对一般文本改变更小",
    },
}

WORDS = {
    "en": {
        "title": "Retrieve or fine-tune?",
        "smoke": (
            "A smoke run: its numbers mean nothing. It only shows the way, with a tiny model whose"
            " weights are random. Give a time, such as --budget 60m, to measure a real model."
        ),
        "own_verdict": " Measured on {facts} facts of your own documents.",
        "invented_verdict": "On invented facts, which no model knows: ",
        "own_few": (
            " Your documents gave {facts} facts to ask about, too few for a verdict of their own"
            " ({enough} are needed)."
        ),
        "own_untrained": (
            "{facts} facts of your own documents were asked, but nothing was trained on them: see"
            " what was left out."
        ),
        "own": "Your documents",
        "own_note": (
            "{questions} questions were made from {passages} passages of your documents; {asked}"
            " that the untrained model cannot answer were asked. Right: those whose passages were"
            " trained on, as they stand. Never trained: the others. Learnt: the difference; with"
            " passages, the arm minus the untrained model without. Questions have one wording, and"
            " were not trained on."
        ),
        "own_none": (
            "No facts of your documents were asked: of {questions} questions that were made from"
            " {passages} passages too few are such that the untrained model cannot answer them. All"
            " that follows is about invented facts."
        ),
        "own_worst": "Where it goes wrong on your documents",
        "learnt": "Learnt",
        "frontier": "What is learnt, and what it costs in known facts",
        "drift_frontier": "What is learnt, and how far the model moves on general text",
        "x": "New facts learnt (share, beyond guessing)",
        "retention": "Known facts, change from the untrained model (share)",
        "drift": "Drift on general text (KL, nats per token)",
        "front": "Pareto front",
        "caption": (
            "Each mark is one arm, with 95% intervals over groups of facts; lines join the epochs"
            " of"
            " one training. Retrieval changes no weights, so it forgets nothing."
        ),
        "alternative": "Most learnt: {most}. Most learnt without training: {untrained}.",
        "nobody": "nobody",
        "names": "How to read the names",
        "names_said": (
            "base: the model as it came, asked without further ado. few-shot: the same model, shown"
            " four examples of short answers. rag-3: the same model with the 3 passages that a"
            " search finds; oracle: with the right passage; distractors: with other passages alone."
            "\n\n"
            "Trained arms are named after what was trained, on what, and for how long. full: all"
            " weights; lora16: a small addition of rank 16 (LoRA), the model itself stays as it is."
            " text: each fact in one wording, repeated; paraphrases: in several wordings; qa: in"
            " several wordings and as questions with answers; documents: passages of your own;"
            " general: texts that say nothing of the facts. replay: general texts were mixed in;"
            " half: gone back half of the way to the untrained model. e4: after 4 rounds through"
            " all texts. +rag-3: the trained model with 3 found passages."
        ),
        "gentle_said": " gentle: trained at a fifth of the usual learning rate.",
        "epochs": "{n} epochs",
        "arms": "What each arm has learnt",
        "arms_note": (
            "Right: share of the new facts that is answered. Never trained: the same for facts that"
            " nothing was trained on. The other columns are what was learnt: from the weights"
            " alone,"
            " trained minus never trained; with passages, the arm minus the untrained model"
            " without."
            " Brackets: 95% intervals by a bootstrap over groups of facts, all seeds together."
        ),
        "arm": "Arm",
        "right": "Right",
        "guessed": "Never trained",
        "seen": "Wording seen",
        "new": "Wording new",
        "reverse": "In reverse",
        "two_hop": "Two hops",
        "refuse": "(baseline) always refuse",
        "frequent": "(baseline) always the most frequent answer",
        "language": "By language",
        "forgets": "What is forgotten",
        "forgets_note": (
            "Known facts: share of real facts right, arm minus untrained. Come back: of those that"
            " were forgotten, the share that is right after others of them were taught again for a"
            " few steps; it was suppressed, not gone. Text: loss on general text, minus the"
            " untrained model's, in nats per token. Drift: KL divergence from the untrained"
            " model. Made up: unanswerable questions that are answered where half of the answerable"
            " ones are."
        ),
        "known": "Known facts",
        "recovered": "Come back",
        "text": "Text",
        "kl": "Drift",
        "made_up": "Made up",
        "matched": "What is kept where equally much was learnt",
        "matched_note": (
            "Read off the lines from the untrained model over the epochs, at an acquisition of"
            " {level}; a training that never gets there has no number, and one with a single"
            " number of epochs stands on a straight line. Reached: share of the resamples that get"
            " there."
        ),
        "training": "Training",
        "reached": "Reached",
        "context": "Does it still use passages?",
        "context_note": (
            "The trained model minus the untrained one, both with the same passages. Facts not"
            " trained: only the passage can help. Contradicting: the passage says otherwise than"
            " the"
            " training, and is to be believed."
        ),
        "reads": "Facts not trained",
        "uses": "Facts trained",
        "heeds": "Contradicting passage",
        "claims": "Which known claims held here",
        "claims_note": (
            "A difference above the least that is claimed held if chance is ruled out at .05 over"
            " all claims together (Holm). It did not hold if it is shown to be smaller, or too"
            " small to matter. In reverse the difference is minus what was learnt in reverse. A"
            " null result stands too."
        ),
        "claim": "Claim",
        "state": "Here",
        "held": "held",
        "did not hold": "did not hold",
        "cannot be told": "cannot be told",
        "difference": "Difference",
        "least": "At least",
        "p": "p, corrected",
        "pairs": "Pairs of arms",
        "worst": "Where it goes wrong",
        "worst_note": (
            "Known facts that were forgotten, passages that were not heeded, and new facts that"
            " were"
            " missed: the first of each in the order of the records."
        ),
        "costs_note": (
            "Seconds on the machine of this run, on average over the seeds. Per right answer:"
            " training, index and all answers, divided by the new facts that were answered right."
        ),
        "left_out": "What was left out",
        "nothing": "Nothing that was planned.",
        "failed": "{arm} failed: {why}",
        "unmeasured": "{arm} was planned and is not measured yet; give the same command again",
        "undrawn": "not drawn, for want of a number: {names}",
        "join": ": ",
        "footer": (
            "{seeds} seeds ({numbers}), {facts} facts of each language and half, {samples} samples."
            " The page is made from the records alone, and comes out the same each time."
        ),
    },
    "zh": {
        "title": "检索，还是微调？",
        "smoke": (
            "这只是试运行，数字没有意义：模型极小，权重随机，只为展示流程。要测真实的模型，"
            "请给出时间，例如 --budget 60m。"
        ),
        "own_verdict": "以上依据您的文档中的 {facts} 个事实。",
        "invented_verdict": "对任何模型都不知道的虚构事实：",
        "own_few": (
            "您的文档只给出 {facts} 个可以提问的事实，不足以单独下结论（需要 {enough} 个）。"
        ),
        "own_untrained": (
            "问到了您的文档中的 {facts} 个事实，但没有在这些文档上训练：见“省略了什么”。"
        ),
        "own": "您的文档",
        "own_note": (
            "由您的文档的 {passages} 个段落得到 {questions} 个问题，问了其中未训练的模型答不出的"
            " {asked} 个。正确：其段落原样训练过的。未训练：其余的。学会：两者之差；附有段落时，减"
            "去没有段落的未训练模型。每个问题只有一种问法，且未用于训练。"
        ),
        "own_none": (
            "没有问到您的文档中的事实：由 {passages} 个段落得到 {questions} 个问题，其中未训练的模"
            "型答不出的太少。以下内容都只关于虚构事实。"
        ),
        "own_worst": "在您的文档上错在哪里",
        "learnt": "学会",
        "frontier": "学到了什么，忘掉了多少已知事实",
        "drift_frontier": "学到了什么，在一般文本上偏移多少",
        "x": "学会的新事实（比例，已减去猜测）",
        "retention": "已知事实的增减（比例，与未训练的模型相比）",
        "drift": "一般文本上的偏移（KL，每词元纳特）",
        "front": "帕累托前沿",
        "caption": (
            "每个点是一种方案，带有按事实组估计的 95% 区间；线连接同一训练的各个轮数。"
            "检索不改变权重，因此不会遗忘。"
        ),
        "alternative": "学得最多：{most}。无需训练而学得最多：{untrained}。",
        "nobody": "无",
        "names": "名称的含义",
        "names_said": (
            "base：原来的模型，直接提问。few-shot：同一模型，先给四个简短回答的例子。rag-3：同一模"
            "型，附上检索到的 3 个段落；oracle：附上正确的段落；distractors：只附其他段落。"
            "\n\n"
            "训练过的方案依次说明训练了什么、用什么训练、训练多久。full：全部权重；lora16：秩为"
            " 16 的小附加部分（LoRA），模型本身不变。text：每个事实用一种说法重复；paraphrases："
            "多种说法；qa：多种说法，另加问题与答案；documents：您自己的段落；general：与事实无关的"
            "文本。replay：掺入一般文本；half：训练后向原模型退回一半。e4：全部文本过 4 轮之后。"
            "+rag-3：训练过的模型再附上检索到的 3 个段落。"
        ),
        "gentle_said": "gentle：以通常学习率的五分之一训练。",
        "epochs": "{n} 轮",
        "arms": "每种方案学到了什么",
        "arms_note": (
            "正确：答对的新事实比例。未训练：对从未训练过的事实的同一比例。其余各列是学到的部分："
            "仅凭权重时，"
            "训练过的减去未训练过的；附有段落时，减去没有段落的未训练模型。方括号：按事实组自助抽"
            "样的 95%"
            " 区间，合并所有种子。"
        ),
        "arm": "方案",
        "right": "正确",
        "guessed": "未训练",
        "seen": "见过的问法",
        "new": "新的问法",
        "reverse": "反向",
        "two_hop": "两跳",
        "refuse": "（基线）总是拒答",
        "frequent": "（基线）总答最常见的答案",
        "language": "按语言",
        "forgets": "忘掉了什么",
        "forgets_note": (
            "已知事实：真实事实的正确率，减去未训练模型。恢复：遗忘的事实中，另一些只重新教了几步"
            "之后又能答对的比例；这些只是被压制，并未消失。文本：一般文本上的损失，减去未训练模型，"
            "单位为每词元纳特。"
            "偏移：与未训练模型的 KL 散度。编造：在回答一半可答问题的置信度下，仍被回答的不可答问"
            "题比例。"
        ),
        "known": "已知事实",
        "recovered": "恢复",
        "text": "文本",
        "kl": "偏移",
        "made_up": "编造",
        "matched": "学得同样多时保留了什么",
        "matched_note": (
            "在学会比例为 {level} 处，从未训练的模型经各轮数的连线读出；从未达到的训练没有数值，"
            "只有一个轮数的训练按直线估计。达到：能达到"
            "的抽样比例。"
        ),
        "training": "训练",
        "reached": "达到",
        "context": "还会用段落吗？",
        "context_note": (
            "训练后的模型减去未训练的模型，两者得到同样的段落。未训练的事实：只有段落能帮忙。相反"
            "的段落：段落与训练"
            "内容不同，应以段落为准。"
        ),
        "reads": "未训练的事实",
        "uses": "训练过的事实",
        "heeds": "相反的段落",
        "claims": "已知的说法在这里是否成立",
        "claims_note": (
            "若差异超过所称的下限，且在所有说法合计 .05 的水平上排除偶然（Holm 校正），则成立。若"
            "可确定更小，或小到无关紧要，则不成立。反向一行的差异是反向学会比例的负值。没有差异也是"
            "结果。"
        ),
        "claim": "说法",
        "state": "在这里",
        "held": "成立",
        "did not hold": "不成立",
        "cannot be told": "无法判断",
        "difference": "差异",
        "least": "下限",
        "p": "p（已校正）",
        "pairs": "方案对数",
        "worst": "错在哪里",
        "worst_note": "被遗忘的已知事实、未被采信的段落、没有学会的新事实：按记录顺序各取前几个。",
        "costs_note": (
            "本次运行所用机器上的时间，各种子的平均。每个正确回答：训练、索引与全部回答的时间，除"
            "以答对的新事实数。"
        ),
        "left_out": "省略了什么",
        "nothing": "计划之内没有省略。",
        "failed": "{arm} 失败：{why}",
        "unmeasured": "{arm} 在计划之内但尚未测量；请再次运行同一命令",
        "undrawn": "因无数值而未绘出：{names}",
        "join": "：",
        "footer": (
            "{seeds} 个种子（{numbers}），每种语言每一半 {facts} 个事实，共 {samples} 个样本。"
            "本页只由记录生成，每次生成都相同。"
        ),
    },
}
