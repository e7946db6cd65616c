// Prints, for each file named on the command line, one line of JSON: its syntax
// tree. A node is {t: type, n: 1 when it is named, s: start, e: end, r: row,
// x: 1 for an error or a missing token, c: children}; offsets are in UTF-16
// units, which are bytes here: the scripts are ASCII.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { Language, Parser } from 'web-tree-sitter';

const grammar = createRequire(import.meta.url).resolve('tree-sitter-powershell/tree-sitter-powershell.wasm');

// A cursor walks far faster than nodes that are asked for their children.
function plain(cursor) {
  const out = { t: cursor.nodeType, s: cursor.startIndex, e: cursor.endIndex, r: cursor.startPosition.row };
  if (cursor.nodeIsNamed) out.n = 1;
  if (cursor.nodeType === 'ERROR' || cursor.nodeIsMissing) out.x = 1;
  if (cursor.gotoFirstChild()) {
    out.c = [];
    do out.c.push(plain(cursor)); while (cursor.gotoNextSibling());
    cursor.gotoParent();
  }
  return out;
}

// V8 would spend half a minute on optimising a parser that runs for half a second.
setFlagsFromString('--liftoff-only');
await Parser.init();
const parser = new Parser();
parser.setLanguage(await Language.load(grammar));
for (const file of process.argv.slice(2)) {
  const tree = parser.parse(readFileSync(file, 'utf8'));
  process.stdout.write(JSON.stringify(plain(tree.walk())) + '\n');
  tree.delete();
}
