"""The names that columns, roles, verdicts and keys go by, as the documentation of the formats has them."""

_LISTS = """
prompt question query instruction instructions user_prompt user_query user_input user_message problem prompt_text \
question_text input_text prompts prompt_messages context_messages
history context post task input user
text document passage article claim source sentence trajectory
messages conversations conversation dialogue dialog chat trajectory contents
system system_prompt system_message sys_prompt system_instruction developer
tools functions available_tools tool_definitions
response completion answer output target reply assistant solution
responses completions answers candidates outputs generations replies model_responses
scores score ratings rewards grades overall_scores gold_scores rating reward grade upvotes votes
ranks rank rankings ranking
chosen_index best_index preferred_index winner_index choice best_idx chosen_idx
is_good desirable is_desirable thumbs_up is_preferred kto_tag is_safe is_response_safe accepted is_accepted \
is_correct correct is_chosen liked is_liked upvoted quality preferred is_acceptable acceptable is_helpful approved
is_bad is_unsafe unsafe is_toxic toxic is_harmful harmful is_rejected disliked is_undesirable undesirable thumbs_down \
is_incorrect incorrect downvoted
label labels feedback
true good desirable chosen accepted positive thumbs_up yes safe
false bad undesirable rejected negative thumbs_down no unsafe
margin margins difference diff delta deltas strength gap
negligible negligibly slight slightly small weak weakly moderate moderately medium large strong strongly much \
significant significantly clear clearly big unsure
rejected_response rejected rejected_answer rejected_messages rejected_completion rejected_output bad_response \
worse_response dispreferred_response negative_response
response answer completion output text content generation reply value
full_text prompt question
response answer completion output text reply message messages summary conversation
score scores rating ratings reward rewards grade grades
avg average mean overall total final raw model judge list gpt4
image image_url input_image audio input_audio video video_url file
not no non never worse worst loser against
"""
(
    PROMPTS,
    LESSER_PROMPTS,
    CONTENTS,
    TALKS,
    SYSTEMS,
    TOOLS,
    ANSWERS,
    LISTS,
    GRADES,
    RANKS,
    INDICES,
    MARKS,
    MARKS_OF_BAD,
    LABELS,
    GOOD_WORDS,
    BAD_WORDS,
    MARGINS,
    STRENGTHS,
    REJECTED,
    TEXT_KEYS,
    QUESTION_KEYS,
    NOUNS_OF_SIDES,
    KINDS_OF_SCORES,
    FILLERS,
    PICTURES,
    DENIALS,
) = map(str.split, _LISTS.strip().splitlines())

_ROLES = """
system: system developer
user: user human prompter
assistant: assistant gpt model bot ai chatbot chatgpt function_call tool_call
tool: tool observation function ipython tool_response function_response
"""
ROLES = {
    word: role for role, words in (line.split(": ") for line in _ROLES.strip().splitlines()) for word in words.split()
}

_WORDS = """chosen rejected, accepted rejected, preferred rejected, preferred dispreferred, preferred unpreferred,
preferred non_preferred, good bad, better worse, best worst, positive negative, pos neg, winner loser, win lose,
winning losing, correct incorrect, safe unsafe, upvoted downvoted"""
WORDS_OF_SIDES = [tuple(pair.split()) for pair in _WORDS.split(",")]
_FORMS = ["{}", *(f"{{}}_{noun}" for noun in NOUNS_OF_SIDES), *(f"{noun}_{{}}" for noun in NOUNS_OF_SIDES)]
SIDES = [(form.format(better), form.format(worse)) for better, worse in WORDS_OF_SIDES for form in _FORMS]
SIDES += [("response_j", "response_k"), ("y_w", "y_l"), ("y_win", "y_lose")]
"""Names of a better and a worse response; of several pairs in one row, the one that stands first here counts."""

_STEMS = """response responses answer completion output summary candidate reply generation text message messages
conversation conversations human_ref assistant translation option"""
STEMS = _STEMS.split()
"""What responses are called in columns that are numbered."""

_VERDICTS = """preferred preference winner choice better best verdict better_response label labels preferred_response
best_response chosen chosen_index better_response_id preference_label vote overall_preference preference_strength
human_preference selected result decision judgment"""
VERDICTS = _VERDICTS.split()
_TIES = """tie, equal, same, both, neither, draw, none, no preference, no_preference, tie (bothbad), both bad,
both good, both_bad, both_good"""
TIES = [tie.strip() for tie in _TIES.split(",")]
_NOUNS = """answer assistant candidate choice completion conversation human is model option output ref reply response
summary system text the winner"""
NOUNS = _NOUNS.split()
"""What may stand before the tag of the better response."""
