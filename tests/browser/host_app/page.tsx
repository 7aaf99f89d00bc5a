// What the reference expects of the application around its component: `toast`, and somebody who mounts it.
import { createRoot } from 'react-dom/client';
import { BalanceDisplay } from './BalanceDisplay';

const said: string[] = [];
Object.assign(globalThis, { said, toast: { success: (text: string) => said.push(text) } });

const root = createRoot(document.getElementById('root')!);
Object.assign(globalThis, { unmount: () => root.unmount() });
root.render(<BalanceDisplay />);
