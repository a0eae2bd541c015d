import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'

export interface Script {
  readonly child: ChildProcess
  /** Resolves with the first line it prints, without its end; rejects with its errors if it exits before that. */
  readonly firstLine: Promise<string>
  readonly exited: Promise<{ readonly code: number | null; readonly errors: string }>
}

/**
 * Runs a script of the repository in a process of its own, on port `port` and with further variables; it is killed at the
 * end of the test.
 */
export function runScript(t: Test, file: string, port: string, env: NodeJS.ProcessEnv = {}): Script {
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), file], {
    env: { ...process.env, PORT: port, ...env }
  })
  t.teardown(() => child.kill('SIGKILL'))

  const exited = Promise.all([once(child, 'close'), text(child.stderr)]).then(([[code], errors]) => ({ code, errors }))
  let output = ''
  const firstLine = new Promise<string>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      if (output.includes('\n')) resolve(output.slice(0, output.indexOf('\n')))
    })
    void exited.then(({ code, errors }) => reject(new Error(`exited with ${code} before it printed a line: ${errors}`)))
  })
  // Not every test wants the line; one that does gets the rejection too.
  firstLine.catch(() => {})
  return { child, firstLine, exited }
}
