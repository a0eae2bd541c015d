import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { createInterface } from 'node:readline'

const MISSING = `There is no redis-server on this machine. Install Redis 7 or newer, with one line:
  sudo apt-get install redis-server    # Debian, Ubuntu
  brew install redis                   # macOS`

/** A Redis server of the demo's own: on a free port of this machine only, and with nothing on the disk. */
export class RedisProcess {
  readonly port: number
  readonly #child: ChildProcess
  readonly #exited: Promise<unknown>

  private constructor(child: ChildProcess, port: number) {
    this.port = port
    this.#child = child
    this.#exited = new Promise((resolve) => child.once('close', resolve))
  }

  /** Resolves when it takes connections. */
  static async start(): Promise<RedisProcess> {
    const port = await freePort()
    const settings = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
    const child = spawn('redis-server', [...settings, '--dir', tmpdir()], { stdio: ['ignore', 'pipe', 'inherit'] })
    const redis = new RedisProcess(child, port)
    try {
      await once(child, 'spawn')
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === 'ENOENT' ? new Error(MISSING, { cause: error }) : error
    }
    const lines: string[] = []
    for await (const line of createInterface({ input: child.stdout })) {
      lines.push(line)
      if (!line.includes('Ready to accept connections')) continue
      child.stdout.resume()
      return redis
    }
    throw new Error(`redis-server does not start:\n${lines.slice(-5).join('\n')}`)
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM')
    await this.#exited
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
