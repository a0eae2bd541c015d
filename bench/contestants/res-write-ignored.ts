/** `res.write` whose result nobody looks at: how most hand-written broadcasts meet a client that does not read. */
import { createServer, type ServerResponse } from 'node:http'
import type { Material, Running } from '../harness/contestant.ts'
import { listen } from './listen.ts'

/** The socket needs the event loop now and then; a real producer waits for something. */
const TURN_BYTES = 65_536

export async function start({ source }: Material): Promise<Running> {
  const clients = new Set<ServerResponse>()
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    response.flushHeaders()
    clients.add(response)
    response.on('close', () => clients.delete(response))
  })

  async function broadcast(): Promise<void> {
    let id = 0
    let bytes = 0
    for await (const value of source.feed()) {
      const frame = Buffer.from(`id: ${++id}\ndata: ${value}\n\n`)
      for (const response of clients) response.write(frame)
      bytes += frame.length
      if (bytes < TURN_BYTES) continue
      bytes = 0
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  void broadcast()
  return { port: await listen(server) }
}
