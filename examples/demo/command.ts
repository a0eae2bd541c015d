/** A demo on the command line. */
export interface Demo {
  /** Resolves with the address to open. */
  listen(host: string, port: number): Promise<string>
  /** Ends everything, also what is about to start. */
  close(): Promise<unknown>
}

const host = '127.0.0.1'

/** Runs a demo on the port that `PORT` says until somebody ends it. `command` is the script of package.json. */
export async function run(command: 'demo' | 'demo:cluster', build: () => Demo | Promise<Demo>): Promise<void> {
  try {
    await runOn(parsePort(process.env['PORT'], command), command, await build())
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  }
}

async function runOn(port: number, command: string, demo: Demo): Promise<void> {
  let isEnding = false
  const end = (): void => {
    isEnding = true
    void demo.close()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
  whenParentExits(command, end)
  try {
    console.log(`The demo is at ${await demo.listen(host, port)} (Ctrl+C ends it)`)
  } catch (error) {
    if (isEnding) return
    await demo.close()
    throw explain(error, port, command)
  }
}

function parsePort(value: string | undefined, command: string): number {
  if (value === undefined || value === '') return 3000
  const port = Number(value)
  if (/^\d+$/.test(value) && port <= 65_535) return port
  throw new Error(
    `PORT must be a whole number from 0 to 65535, not "${value}". For example: PORT=3001 npm run ${command}`
  )
}

/** The error of `listen()` in words that say what to do next. */
function explain(error: unknown, port: number, command: string): unknown {
  const { code } = error as NodeJS.ErrnoException
  const fix = `Choose another one, for example: PORT=${port >= 1024 && port < 65_535 ? port + 1 : 3001} npm run ${command}`
  if (code === 'EADDRINUSE') return new Error(`Port ${port} on ${host} is already in use. ${fix}`, { cause: error })
  if (code === 'EACCES') return new Error(`You may not listen on port ${port} of ${host}. ${fix}`, { cause: error })
  return error
}

/** The shell between npm and this process does not pass a SIGTERM on: without this, `kill` of npm leaves it here. */
function whenParentExits(command: string, onExit: () => void): void {
  if (process.env['npm_lifecycle_event'] !== command) return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    onExit()
  }, 500).unref()
}
