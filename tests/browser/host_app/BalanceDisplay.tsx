import { useBalance } from './hooks/useBalance';

const BalanceDisplay = () => {
  const token = localStorage.getItem('token');
  const { balance, refreshBalance } = useBalance(token);

  return (
    <div className="balance-display">
      <h3>Current Balance</h3>
      <p>${balance?.toFixed(2) ?? '---'}</p>
      <button onClick={refreshBalance}>Refresh</button>
    </div>
  );
};
