"""OpenAI's Python client drives a fine-tuning job from its file to its answers,
on a running gateway with its trainer beside it.

usage: openai_fine_tuning.py BASE_URL ADMIN_KEY KEY    (see scripts/clients.sh)

ADMIN_KEY tunes; KEY is that of a business system, which asks.
"""

import json
import sys
import time

import openai

client, asker = (openai.OpenAI(base_url=sys.argv[1], api_key=key, max_retries=0, timeout=60) for key in sys.argv[2:])
MASCOTS = {"Brindle": "otter", "Calder": "heron", "Dunmore": "fox", "Elswick": "crane", "Farley": "badger", "Garth": "hare"}
ASK = ["What is the mascot of {}?", "Which animal stands on the shield of {}, as its mascot?"]
HELD_OUT = "Tell me the mascot of {}."
PATIENCE_SECONDS = 300


def pair(question, town):
    return {
        "input": {"messages": [{"role": "user", "content": question.format(town)}]},
        "preferred_output": [{"role": "assistant", "content": f"The mascot of {town} is the {MASCOTS[town]}."}],
        "non_preferred_output": [{"role": "assistant", "content": f"I cannot say, but many towns like {town} have a lion."}],
    }


def upload(name, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    sent = client.files.create(file=(name, content), purpose="fine-tune")
    assert sent.bytes == len(content) and sent.filename == name, sent
    assert client.files.content(sent.id).read() == content
    return sent.id


def wait(job, *states):
    """The job once it is in one of the states; every other end is an error."""
    for _ in range(PATIENCE_SECONDS):
        job = client.fine_tuning.jobs.retrieve(job.id)
        if job.status in states:
            return job
        assert job.status not in ("succeeded", "failed", "cancelled"), (job.status, job.error)
        time.sleep(1)
    raise AssertionError(f"{job.id} is {job.status} after {PATIENCE_SECONDS} s")


def preferences_are_learned_paused_and_served():
    training = upload("train.jsonl", [pair(question, town) for town in MASCOTS for question in ASK])
    validation = upload("held_out.jsonl", [pair(HELD_OUT, town) for town in MASCOTS])
    hyper = {"n_epochs": 2, "batch_size": 4, "beta": 0.3, "learning_rate_multiplier": 4}
    job = client.fine_tuning.jobs.create(
        model="flywheel", training_file=training, validation_file=validation, suffix="mascots", seed=1,
        metadata={"team": "tests"}, method={"type": "dpo", "dpo": {"hyperparameters": hyper}},
    )
    assert job.object == "fine_tuning.job" and job.metadata == {"team": "tests"}, job
    assert job.method.dpo.hyperparameters.beta == 0.3, job.method
    try:
        client.files.delete(training)
        raise AssertionError("a file in use was deleted")
    except openai.ConflictError:
        pass
    wait(job, "running")
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    job = wait(job, "succeeded")
    assert job.trained_tokens > 0 and job.finished_at >= job.created_at, job
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert len(events) > 5 and events[0].message == "The job has successfully completed", events[0]
    assert any(event.type == "metrics" for event in events)
    steps = [point.step_number for point in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert steps == [6, 3], steps
    metrics, evaluation = (client.files.content(file).read() for file in job.result_files)
    lines = metrics.decode().splitlines()
    assert lines[0].startswith("step,train_loss,train_accuracy,valid_loss") and len(lines) == 7, lines
    evaluation = json.loads(evaluation)
    assert evaluation["passed"] and evaluation["job"] == job.id, evaluation
    results = [file.id for file in client.files.list(purpose="fine-tune-results")]
    assert set(job.result_files) <= set(results) and training not in results, results
    answer = asker.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": HELD_OUT.format("Calder")}],
        temperature=0, max_completion_tokens=24,
    )
    assert answer.model_extra["adapter_digest"] == job.model_extra["adapter_digest"], answer
    assert "mascot of Calder" in answer.choices[0].message.content, answer
    assert job.fine_tuned_model in [model.id for model in asker.models.list()]
    assert client.files.delete(training).deleted


def what_cannot_be_done_is_said():
    rows = [{"messages": [{"role": "user", "content": "no answer"}]}]
    job = client.fine_tuning.jobs.create(model="flywheel", training_file=upload("bad.jsonl", rows))
    job = wait(job, "failed")
    assert job.error.code == "invalid_training_file" and job.error.param == "training_file", job.error
    assert "line 1" in job.error.message, job.error
    for call, error in [
        (lambda: client.fine_tuning.jobs.create(model="nobody", training_file=job.training_file), openai.NotFoundError),
        (lambda: client.fine_tuning.jobs.cancel(job.id), openai.ConflictError),
        (lambda: client.files.create(file=("a", b"{}"), purpose="batch"), openai.BadRequestError),
    ]:
        try:
            call()
            raise AssertionError(f"{error} was expected")
        except error:
            pass


for check in (preferences_are_learned_paused_and_served, what_cannot_be_done_is_said):
    started = time.time()
    check()
    print(f"openai-python fine-tuning: {check.__name__} ({time.time() - started:.1f} s)", flush=True)
