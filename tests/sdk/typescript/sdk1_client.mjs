// The TypeScript SDK 1.x as a client.  Usage: node sdk1_client.mjs URL

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { fillIn, Heard, runSteps } from './report.mjs';

const heard = new Heard();
const client = new Client({ name: 'sdk1-client', version: '1.0.0' }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, fillIn);
client.setNotificationHandler(LoggingMessageNotificationSchema, heard.onLog);
client.setNotificationHandler(ToolListChangedNotificationSchema, heard.listChanged);

const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
await client.connect(transport);
await runSteps({
  call: (name, args = {}, options) => client.callTool({ name, arguments: args }, undefined, options),
  listTools: async () => (await client.listTools()).tools.map(tool => tool.name),
  heard,
  revision: transport.protocolVersion,
  session: transport.sessionId !== undefined,
});
await transport.terminateSession();
await client.close();
