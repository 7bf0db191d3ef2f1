"""Names of columns in other languages than English: a question, what it is about, its choices and answer; an instruction and its output.

in_english("Antwort")       # "answer"
in_english("回答")           # "answer"
in_english("price")         # "price"
"""

from __future__ import annotations

from finetune.letters import as_seen

NAMES = {
    "question": (
        "frage, pregunta, pergunta, questão, domanda, vraag, fråga, spørgsmål, spørsmål, kysymys, pytanie, otázka, pitanje, kérdés, "
        "întrebare, soru, pertanyaan, soalan, câu hỏi, вопрос, питання, запитання, въпрос, ερώτηση, سؤال, السؤال, سوال, پرسش, שאלה, השאלה, "
        "प्रश्न, सवाल, প্রশ্ন, คำถาม, 質問, 問い, 问题, 問題, 题目, 題目, 提问, 提問, 질문, 물음, 문제"
    ),
    "answer": (
        "antwort, respuesta, resposta, réponse, risposta, antwoord, svar, vastaus, odpowiedź, odpověď, odpoveď, odgovor, válasz, răspuns, "
        "cevap, yanıt, jawaban, jawapan, trả lời, câu trả lời, ответ, відповідь, отговор, απάντηση, جواب, الجواب, إجابة, الإجابة, پاسخ, "
        "תשובה, התשובה, उत्तर, जवाब, উত্তর, คำตอบ, 回答, 答え, 解答, 答案, 答复, 答覆, 回复, 回覆, 답변, 대답, 답"
    ),
    "correct_answer": (
        "richtige antwort, respuesta correcta, resposta correta, bonne réponse, правильный ответ, doğru cevap, 正解, 正确答案, 정답"
    ),
    "context": (
        "kontext, contexto, contexte, contesto, kontekst, bağlam, konteks, ngữ cảnh, контекст, πλαίσιο, السياق, سياق, הקשר, संदर्भ, บริบท, "
        "文脈, コンテキスト, 上下文, 語境, 문맥, 맥락"
    ),
    "choice": (
        "choix, opción, opção, alternativa, opzione, opcja, pilihan, seçenek, lựa chọn, вариант, вариант ответа, विकल्प, ตัวเลือก, 選択肢, "
        "选项, 選項, 선택지, 보기"
    ),
    "instruction": "指示, 指令, 지시, 지시문",
    "input": "入力, 输入, 輸入, 입력",
    "output": "出力, 输出, 輸出, 출력",
}


def names_of(english: str) -> list[str]:
    """The names of what has this English name."""
    return NAMES[english].split(", ")


_ENGLISH = {name: english for english in NAMES for name in names_of(english)}


def in_english(name: str) -> str:
    """The English name of a column, in lower case; its own where it has none."""
    name = as_seen(name).strip().lower()
    return _ENGLISH.get(name, name)
