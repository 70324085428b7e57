// The steps that every client script takes and what it tells of them: one JSON line, in the words of the Python scripts.

const PARALLEL_CALLS = 24;
const ALLOWED = 'test_simple_text';
const DENIED = 'test_image_content';
const WAIT_MS = 10_000;
const FORM = { username: 'ada', email: 'ada@example.com', name: 'Ada' };

/** Fills in the form that an elicitation asks for. */
export function fillIn({ params }) {
  const wanted = Object.keys(params.requestedSchema.properties);
  return { action: 'accept', content: Object.fromEntries(wanted.map(key => [key, FORM[key]])) };
}

/** What the client hears besides answers. */
export class Heard {
  logs = [];
  progress = [];
  #changed = Promise.withResolvers?.() ?? deferred();

  listChanged = () => this.#changed.resolve(true);
  onLog = ({ params }) => void this.logs.push(params.data);
  onProgress = ({ progress, total }) => void this.progress.push([progress, total]);

  waitForListChanged() {
    const late = new Promise((_, fail) => setTimeout(fail, WAIT_MS, new Error('no list_changed')).unref());
    return Promise.race([this.#changed.promise, late]);
  }
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/** Takes the steps with `call(name, args, options)` on a connected client, and prints the report. */
export async function runSteps({ call, listTools, heard, revision, session }) {
  const legacy = revision < '2026-07-28';
  const tools = await listTools();
  const report = {
    revision,
    session,
    tools: tools.toSorted(),
    allowed: await outcome(() => call(ALLOWED)),
    denied: await outcome(() => call(DENIED)),
    after_denied: await outcome(() => call(ALLOWED)),
  };
  await call('test_tool_with_logging');
  await call('test_tool_with_progress', {}, { onprogress: heard.onProgress });
  Object.assign(report, { logs: heard.logs, progress: heard.progress });
  report.asked = legacy
    ? textOf(await call('test_elicitation', { message: 'Who are you?' }))
    : textOf(await call('test_input_required_result_elicitation'));
  if (legacy && tools.includes('test_reconnection')) {
    report.resumed = textOf(await call('test_reconnection'));
    await call('test_trigger_tool_change');
    report.list_changed = await heard.waitForListChanged();
  }
  const calls = await Promise.all(Array.from({ length: PARALLEL_CALLS }, () => call(ALLOWED)));
  report.parallel = calls.filter(answer => textOf(answer) === report.allowed.text).length;
  console.log(JSON.stringify(report));
}

const textOf = ({ content }) => content.map(block => block.text ?? `<${block.type}>`).join(' ');

async function outcome(call) {
  try {
    return { text: textOf(await call()) };
  } catch (error) {
    if (typeof error.code !== 'number') throw error;
    return { code: error.code, message: error.message };
  }
}
