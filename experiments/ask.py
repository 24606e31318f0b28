"""What do a run's models say to a question? python -m experiments.ask RUN_FOLDER "QUESTION" ...

RUN_FOLDER is a run folder of train.py, such as out/tiny-ngdiff-seed0. Prints the greedy answers of
the target, the retrained and the unlearned model, a line each. The models are read from the cache,
or made if they are not there. If the code or data behind them has changed since the run, it names
the change and ends.
"""
import data
from experiments import folders, shared
from harness import flags, measuring

LONGEST = 200        # tokens of an answer


def ready(argv):
    """(train.Run, its Stages, the questions, the same as token ids). ValueError on a mistake."""
    parser = shared.parser("ask", __doc__)
    parser.add_argument("folder", metavar="RUN_FOLDER")
    parser.add_argument("questions", metavar="QUESTION", nargs="+")
    args = parser.parse_args(argv)
    run, stages = folders.run_of(args.folder)
    return run, stages, args.questions, [prompt(run, q) for q in args.questions]


def prompt(run, question):
    """A question as token ids. ValueError if it is empty, or if it leaves no room to answer."""
    if not question.strip():
        raise ValueError("QUESTION is empty")
    encoded = data.encode(run.tokenizer, question, "")
    room = run.initial.config.block_size
    if encoded.n_prompt >= room:
        raise ValueError(f"'{question[:40]}' has {encoded.n_prompt} tokens: the model reads and "
                         f"writes {room} at most")
    return encoded.tokens[:encoded.n_prompt]


def act(asked):
    """Print each model's answer to each question."""
    run, stages, questions, prompts = asked
    room = min(LONGEST, run.initial.config.block_size)
    answers = {name: measuring.generate(model, run.tokenizer, prompts, room)
               for name, model in folders.models_in(run, stages).items()}
    for i, question in enumerate(questions):
        print(f"\n{question}")
        for name, tokens in answers.items():
            print(f"{name:>12}: {' '.join(run.tokenizer.decode(tokens[i]).split())}")


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
