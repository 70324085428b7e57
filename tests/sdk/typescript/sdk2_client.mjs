// The TypeScript SDK 2.x as a client, in either era.  Usage: node sdk2_client.mjs URL legacy|auto

import { Client, LOG_LEVEL_META_KEY, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { fillIn, Heard, runSteps } from './report.mjs';

const [url, mode] = process.argv.slice(2);
const heard = new Heard();
const client = new Client(
  { name: 'sdk2-client', version: '1.0.0' },
  { capabilities: { elicitation: {} }, versionNegotiation: { mode } },
);
client.setRequestHandler('elicitation/create', fillIn);
client.setNotificationHandler('notifications/message', heard.onLog);
client.setNotificationHandler('notifications/tools/list_changed', heard.listChanged);

const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const revision = client.getNegotiatedProtocolVersion();
// A request of the newer era asks for its logs itself.
const meta = revision < '2026-07-28' ? {} : { _meta: { [LOG_LEVEL_META_KEY]: 'info' } };
await runSteps({
  call: (name, args = {}, options) => client.callTool({ name, arguments: args, ...meta }, options),
  listTools: async () => (await client.listTools()).tools.map(tool => tool.name),
  heard,
  revision,
  session: transport.sessionId !== undefined,
});
if (transport.sessionId !== undefined) await transport.terminateSession();
await client.close();
