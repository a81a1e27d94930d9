// "lang=zh, year>=2020" or JSON, as the server's filter.

const OPERATORS = { "=": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte" };

export function parseFilter(text) {
  const written = text.trim();
  if (!written) return null;
  if (written.startsWith("{")) return parseJson(written);
  // a comma between quotes is part of the value
  const conditions = (written.match(/(?:[=<>]\s*"[^"]*"|[^,])+/g) ?? [written]).map(condition);
  return conditions.length === 1 ? conditions[0] : { $and: conditions };
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("The filter is not JSON.");
  }
}

function condition(text) {
  const found = /^\s*([^=!<>]+?)\s*(!=|>=|<=|=|>|<)\s*(.+?)\s*$/.exec(text);
  if (!found) throw new Error(`The filter “${text.trim()}” is not understood: write key=value, like lang=zh.`);
  return { [found[1]]: { [OPERATORS[found[2]]]: value(found[3]) } };
}

/** 00501 is no number: whoever stored it wrote a string. Quotes make a string of anything. */
function value(text) {
  if (/^".*"$/.test(text)) return text.slice(1, -1);
  if (text === "true" || text === "false") return text === "true";
  return /^-?(0|[1-9]\d*)(\.\d+)?$/.test(text) ? Number(text) : text;
}
