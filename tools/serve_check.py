#!/usr/bin/env python3
"""Continues prompts greedily by fomoe-eval, by transformers and by llama.cpp, all in f32, and says
whether they give the same tokens. Needs the packages torch and transformers, and llama-cpp-python
for --gguf. Ends with 1 where they do not.

    serve_check.py build/fomoe-eval runs/NAME --hf DIR [--gguf FILE] (--prompt TEXT... | --ids FILE)
"""
import argparse
import json
import subprocess
import sys


def by_fomoe(options):
    words = [options.program, options.run, "--json", "--temperature", "0",
             "--max-tokens", str(options.tokens)]
    for prompt in options.prompt or []:
        words += ["--generate", prompt]
    if options.ids:
        words += ["--prompt-tokens", options.ids]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["generations"]


def by_transformers(directory, prompts, tokens):
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                  max_new_tokens=tokens)
        yield until(made[0, len(prompt):].tolist(), model.generation_config.eos_token_id)


def by_llama(file, prompts, tokens):
    import llama_cpp
    model = llama_cpp.Llama(file, n_ctx=max(map(len, prompts)) + tokens, verbose=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    for prompt in prompts:
        made = []
        for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            made.append(token)
            if len(made) == tokens:
                break
        yield until(made, model.token_eos())


def until(tokens, end):
    return tokens[:tokens.index(end)] if end in tokens else tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="fomoe-eval")
    parser.add_argument("run", help="the run or the checkpoint")
    parser.add_argument("--hf", required=True, help="what --export has made of it, in f32")
    parser.add_argument("--gguf", help="what llama.cpp's converter has made of that, in f32")
    parser.add_argument("--prompt", nargs="+", help="texts")
    parser.add_argument("--ids", help="a file of token ids, a prompt a line")
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    if bool(options.prompt) == bool(options.ids):
        parser.error("give prompts by --prompt or by --ids")

    made = by_fomoe(options)
    prompts = [each["prompt_tokens"] for each in made]
    others = {"transformers": list(by_transformers(options.hf, prompts, options.tokens))}
    if options.gguf:
        others["llama.cpp"] = list(by_llama(options.gguf, prompts, options.tokens))
    same = True
    for i, each in enumerate(made):
        print(f"prompt {i + 1}: {each['prompt']!r}\n  fomoe-eval   {each['tokens']}")
        print(f"               {each['text']!r}")
        for name, lists in others.items():
            equal = lists[i] == each["tokens"]
            same = same and equal
            print(f"  {name:<12} {'the same' if equal else lists[i]}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
