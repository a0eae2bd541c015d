/** A bare socket: one pre-framed Buffer per event. Nothing that answers over TCP event by event does less. */
import { createServer, type Socket } from 'node:net'
import type { Material, Running } from '../harness/contestant.ts'
import { HEARTBEAT, drained } from './hub.ts'
import { listen } from './listen.ts'

const HEAD =
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n'
const END = '0\r\n\r\n'

export async function start({ source, heartbeatMs }: Material): Promise<Running> {
  const clients = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {})
    socket.on('close', () => clients.delete(socket))
    socket.on('data', (request) => {
      socket.write(HEAD)
      if (request.toString('latin1', 0, 9) === 'GET /feed') clients.add(socket)
      else void answer(socket)
    })
  })

  async function answer(socket: Socket): Promise<void> {
    let id = 0
    for await (const value of source.tokens()) {
      if (!socket.write(chunk(`id: ${++id}\ndata: ${value}\n\n`))) await drained(socket)
    }
    socket.write(END)
  }

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const value of source.feed()) {
      const bytes = chunk(`id: ${++id}\ndata: ${value}\n\n`)
      const full: Socket[] = []
      for (const socket of clients) if (!socket.write(bytes)) full.push(socket)
      if (full.length > 0) await Promise.all(full.map(drained))
    }
  }

  void broadcast()
  if (heartbeatMs !== undefined) {
    const beat = chunk(HEARTBEAT)
    setInterval(() => {
      for (const socket of clients) socket.write(beat)
    }, heartbeatMs)
  }
  return { port: await listen(server) }
}

function chunk(frame: string): Buffer {
  return Buffer.from(`${Buffer.byteLength(frame).toString(16)}\r\n${frame}\r\n`)
}
