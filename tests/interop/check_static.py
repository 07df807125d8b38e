"""Save MiniLM with static activations, and check what output errors predict.

    check_static.py QUANTSCOPE SOURCE DIRECTORY

Records the inputs of SOURCE's linear layers for 64 sentences, saves static W8A8 with
`quantscope quantize --scheme W8A8 --activation-scheme static`, loads the output in transformers,
and compares the embeddings of 32 other sentences with those of the float model: the mean cosine
must be at least 0.98. Activations are quantized only if the model is loaded with
`dequantize=False`; with the output's config transformers dequantizes the weights and does not
quantize activations, which is also measured. Then a third of the layers stays float: keeping the
third that `quantscope analyze --sort output-static` ranks worst must recover more accuracy than
keeping the middle third, and that more than the best third. For comparison the script prints the
result of keeping the third with the worst weight errors. DIRECTORY is for temporary files.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
import transformers
from transformers import AutoModel, AutoTokenizer, CompressedTensorsConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "assets"))
from record_activations import describe, record  # noqa: E402

ROWS = 512

RECORDED = """
The train to the coast leaves at ten past six.
She planted three rows of beans behind the shed.
A recession is two quarters in a row without growth.
How do I reset the password of my account?
The committee voted against the proposal by a wide margin.
He has been learning the violin since he was four.
Water boils at a lower temperature in the mountains.
Our flight was cancelled because of the storm.
The museum is closed on Mondays and public holidays.
Please find the invoice attached to this message.
Wolves hunt in packs and share what they catch.
The novel tells of two brothers who never speak again.
Interest rates were raised for the third time this year.
Where can I buy fresh bread on a Sunday?
The patient was given antibiotics for ten days.
A prime number has no divisors but one and itself.
They painted the kitchen in a pale shade of green.
The goalkeeper saved two penalties in the final.
Solar panels work less well when they get hot.
I would rather walk than wait for the bus.
The bridge was built by the Romans and still stands.
Stir the sauce until it thickens, then add the cream.
The company reported a loss of forty million euros.
My phone does not charge unless I hold the cable.
Bees dance to tell each other where flowers are.
The court ruled that the contract was void.
Can you recommend a good book about astronomy?
The river froze for the first time in thirty years.
The function returns a list of the files it has changed.
Nobody knows who wrote the oldest of these songs.
The children built a castle out of wet sand.
Vaccines train the immune system without the disease.
The price of copper fell to its lowest since spring.
He forgot his umbrella in the restaurant again.
The orchestra rehearses in an old factory.
What is the difference between a crocodile and an alligator?
The new law bans smoking in parks and on beaches.
Glaciers move a few centimetres every day.
Her grandmother came from a village near the border.
The engine makes a strange noise when it is cold.
The exhibition shows photographs of empty cities.
You need two eggs, a cup of flour and some butter.
The satellite lost contact shortly after launch.
It takes about an hour to get there by car.
The teacher asked the class to be quiet.
Inflation is expected to slow down next year.
The dog barked at the postman every morning.
This update fixes a crash when opening large files.
The marathon starts in front of the town hall.
Most of an iceberg lies below the surface.
He apologised for being late and sat down.
The bakery on the corner sells excellent pastries.
Scientists found traces of water on the moon.
The tenants complained about the broken lift.
Is it safe to eat these berries?
The treaty was signed after long negotiations.
She speaks five languages and is learning a sixth.
The warehouse burned down during the night.
An octopus has three hearts and blue blood.
The lecture will be recorded and put online.
He repaired the old radio with parts from another.
The population of the town has doubled since 1990.
Turn left at the church and follow the road uphill.
The committee will meet again in two weeks.
""".strip().splitlines()

HELD_OUT = """
The ferry to the island sails twice a day.
Which vegetables can be sown in autumn?
The bank lowered its forecast for the coming year.
I cannot log in although my password is right.
The motion was carried with a small majority.
Air pressure falls with altitude.
All flights are delayed because of fog.
The gallery opens at nine except on Tuesdays.
The receipt for your order is below.
Lions live in prides and hunt together.
Two sisters meet again after many years.
The central bank left interest rates unchanged.
The doctor advised her to rest for a week.
Every even number greater than two may be the sum of two primes.
The striker missed a penalty in the last minute.
Wind turbines stand still when the air does.
The aqueduct has carried water for two thousand years.
Whisk the eggs with sugar until they are pale.
Profits rose by a fifth compared with last year.
The battery of my laptop lasts only an hour.
Ants leave trails of scent for each other.
The judge dismissed the case for lack of evidence.
Could you suggest a film for a rainy evening?
The lake has dried up after three hot summers.
The method throws an error if the path does not exist.
The choir sings in the cathedral at Christmas.
Antibiotics do not help against viruses.
The rocket exploded a minute after it was launched.
Sharks have no bones, only cartilage.
The lift has been out of order since Friday.
She translated the poems into French.
The road over the pass is closed in winter.
""".strip().splitlines()


def embed(model, tokenizer, sentences):
    """The mean over tokens, like the model's pooling."""
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return (tokens * mask).sum(1) / mask.sum(1)


class Check:
    def __init__(self, quantscope, source, directory):
        self.quantscope, self.source, self.directory = quantscope, source, Path(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
        self.expected = embed(model, self.tokenizer, HELD_OUT)
        # One sentence at a time, so that no padding is recorded.
        samples = [self.tokenizer(s, return_tensors="pt") for s in RECORDED]
        self.captures = str(self.directory / "captures.safetensors")
        tensors = record(model, samples, rows=ROWS)
        save_file(tensors, self.captures, metadata=describe(model))
        size = Path(self.captures).stat().st_size / 1e6
        print(f"recorded {len(tensors)} layers, at most {ROWS} tokens each, {size:.1f} MB")

    def run(self, *arguments):
        command = [self.quantscope, *arguments, "--quiet"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def cosine(self, name, *options):
        """The mean and minimum cosine with the float model after saving with these options."""
        out = str(self.directory / name)
        self.run("quantize", self.source, "-o", out, "--force", "--format", "compressed-tensors", "--scheme", "W8A8", *options)
        return self.load(out, quantization_config=CompressedTensorsConfig(dequantize=False))

    def load(self, out, **how):
        model = AutoModel.from_pretrained(out, **how).eval()
        found = embed(model, self.tokenizer, HELD_OUT)
        cosines = torch.nn.functional.cosine_similarity(self.expected, found)
        return cosines.mean().item(), cosines.min().item()

    def static(self, left_out=(), calibration="min-max"):
        excluded = [part for name in left_out for part in ("--exclude", name)]
        options = ["--activation-scheme", "static", "--activation-calibration", calibration]
        return self.cosine("static", *excluded, *options, "--activations", self.captures)

    def ranked(self, by):
        text = self.run(
            "analyze", self.source, "--scheme", "per-channel", "--json", "--no-cache",
            "--activations", self.captures, "--sort", by,
        )
        tensors = json.loads(text)["tensors"]
        return [t["name"] for t in tensors if (t["output"] or {}).get("basis")]


def main():
    # With dequantize=True, the default of the config, input scales are unused, which is warned about.
    transformers.logging.set_verbosity_error()
    check = Check(*sys.argv[1:])
    dynamic, _ = check.cosine("dynamic")
    for calibration in ["percentile:99.99", "mse"]:
        mean, _ = check.static(calibration=calibration)
        print(f"static by {calibration}: cosine {mean:.6f} on average")
    static, least = check.static()
    out = str(check.directory / "static")
    verified = check.run("verify", out, "--against", check.source, "--activations", check.captures)
    floats, _ = check.load(out)
    print(f"weights alone (dequantize=True): cosine {floats:.6f} on average")
    print(f"dynamic: cosine {dynamic:.6f} on average")
    good = static >= 0.98 and "calibrated again with the same result" in verified
    print(f"{'ok' if good else 'FAILED'} static by min-max: cosine {static:.6f} on average, at least {least:.6f}")
    by_output, by_weights = check.ranked("output-static"), check.ranked("sqnr")
    third = -(-len(by_output) // 3)
    left = {
        "worst third by static output error": by_output[:third],
        "middle third": by_output[third:-third],
        "best third": by_output[-third:],
        "worst third by weight error": by_weights[:third],
    }
    recovered = []
    for what, names in left.items():
        mean, _ = check.static(names)
        recovered.append(mean)
        share = (mean - static) / (1 - static)
        print(f"   {len(names)} of {len(by_output)} in float, {what}: cosine {mean:.6f}, {share:.0%} recovered")
    ranks = recovered[0] > recovered[1] > recovered[2]
    print(f"{'ok' if ranks else 'FAILED'} the worse the output error, the more is recovered")
    return not (good and ranks)


if __name__ == "__main__":
    sys.exit(main())
