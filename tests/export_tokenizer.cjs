// Ids and words of texts by a JavaScript tokenizer. Reads {"modules", "package", "tokenizer", "texts"} as JSON, writes [[ids, words]].
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const given = JSON.parse(readFileSync(0, "utf8"));
const library = createRequire(join(given.modules, "any.js"))(given.package);
const settings = { pad_token: "<pad>", clean_up_tokenization_spaces: false };

let encode, tokenizer;
if (given.package === "@huggingface/tokenizers") {
  tokenizer = new library.Tokenizer(given.tokenizer, settings);
  encode = (text) => tokenizer.encode(text).ids;
} else {
  tokenizer = new library.PreTrainedTokenizer(given.tokenizer, settings);
  encode = (text) => Array.from(tokenizer(text, { return_tensor: false }).input_ids);
}
const found = given.texts.map((text) => {
  const ids = encode(text);
  return [ids, ids.length ? tokenizer.decode(ids) : ""];
});
process.stdout.write(JSON.stringify(found));
