/** What people really write: a template string and JSON for every client, the result of `write` ignored. */
import { createServer, type ServerResponse } from 'node:http'
import type { Material, Running } from '../harness/contestant.ts'
import { Gate } from './hub.ts'
import { listen } from './listen.ts'

export async function start({ source }: Material): Promise<Running> {
  const clients = new Set<ServerResponse>()
  const gate = new Gate()
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    response.flushHeaders()
    clients.add(response)
    response.on('close', () => clients.delete(response))
  })

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const value of source.feed()) {
      id++
      for (const response of clients) response.write(`id: ${id}\ndata: ${JSON.stringify({ value })}\n\n`)
      await gate.passed(value.length, () => clients)
    }
  }

  void broadcast()
  return { port: await listen(server) }
}
